-- The five auctions with the most bids of the last 10 seconds, every 2 seconds: query 5 of Nexmark.
-- Run it with `make run-stream`, or `buzz stream run code/examples/top-auctions.sql`.

-- Generates an auction house: 1 person, 3 auctions and 46 bids in 50 events.
CREATE TABLE nexmark WITH (connector = 'nexmark', event_rate = '1000', runtime = '10s');

SELECT * FROM (
    SELECT *, ROW_NUMBER() OVER (
        PARTITION BY window
        ORDER BY count DESC, auction) AS row_num
    FROM (
        SELECT count(*) AS count, bid.auction AS auction,
            hop(interval '2 seconds', interval '10 seconds') AS window
        FROM nexmark
        WHERE bid IS NOT NULL
        GROUP BY 2, window))
WHERE row_num <= 5;
