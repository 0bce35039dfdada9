-- Bids into a lake of Parquet files, and their number per channel and minute, exactly once. Run it with a state:
-- buzz stream run code/examples/stream-to-lake.sql --state data/streams

CREATE TABLE nexmark WITH (connector = 'nexmark', event_rate = '1000', disorder = '2s');

CREATE VIEW bids AS
SELECT bid.auction AS auction, bid.bidder AS bidder, bid.price AS price, bid.channel AS channel, date_time
FROM nexmark
WHERE bid IS NOT NULL;

CREATE TABLE lake WITH (
    connector = 'parquet', path = 'data/lake/bids', partition_by = 'channel', type = 'sink');

CREATE TABLE per_minute (channel TEXT, bids BIGINT, revenue BIGINT, minute TIMESTAMP) WITH (
    connector = 'json', path = 'data/lake/per-minute', type = 'sink');

SET epoch = '10s';

INSERT INTO lake SELECT auction, bidder, price, channel, date_time FROM bids;

INSERT INTO per_minute
SELECT channel, count(*), sum(price), window_start
FROM TUMBLE(bids, date_time, INTERVAL '1' MINUTE)
GROUP BY channel, window_start;
