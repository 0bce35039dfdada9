-- Two streams, joined on the user. Rows of each come by HTTP, and are aggregated before they are stored as state: however
-- many events a user has in a second, the state has one row for them.
-- Run it with `make run-ingest`, or push rows to `buzz serve --streams data/streams` and run
-- buzz stream run code/examples/join-streams.sql --state data/streams

CREATE TABLE clicks (user_id BIGINT, page TEXT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '1 second') WITH (
    connector = 'http', path = 'data/streams', idle_timeout = '2s');

CREATE TABLE purchases (user_id BIGINT, amount DECIMAL(10, 2), ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '1 second') WITH (
    connector = 'http', path = 'data/streams', idle_timeout = '2s');

CREATE TABLE joined WITH (connector = 'stdout', type = 'sink');

SET epoch = '200 ms';

INSERT INTO joined
SELECT c.user_id AS user_id, c.clicks AS clicks, p.purchases AS purchases, p.amount AS amount, c.w.start AS second
FROM (SELECT user_id, count(*) AS clicks, tumble(interval '1 second') AS w FROM clicks GROUP BY user_id, w) c
JOIN (SELECT user_id, count(*) AS purchases, sum(amount) AS amount, tumble(interval '1 second') AS w
      FROM purchases GROUP BY user_id, w) p
ON c.user_id = p.user_id AND c.w = p.w;
