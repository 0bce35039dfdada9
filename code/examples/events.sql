-- Counts the events of a server by type, every 10 seconds. Run it with a state, in which events are kept before they count:
--   buzz stream run code/examples/events.sql --state data/streams --name events
CREATE TABLE events (type TEXT, user TEXT) WITH (
    connector = 'sse',
    endpoint = 'http://127.0.0.1:8000/events',
    bad_data = 'drop',
    idle_timeout = '10s'
);

SELECT type, count(*) AS events, count(DISTINCT "user") AS users, tumble(interval '10 seconds') AS w
FROM events GROUP BY type, w;
