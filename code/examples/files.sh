#!/bin/sh
# Makes the files of the examples in data/examples from the sample table: `make examples` runs it.
#
#   BUZZ    the command; by default `buzz`
#   SAMPLE  folder of the sample table; by default data/nyc-taxi-daily
set -eu
: "${BUZZ:=buzz}" "${SAMPLE:=data/nyc-taxi-daily}"
folder=data/examples

# write FILE SQL [FORMAT]: writes the rows of SQL over the sample table `trips`.
write() {
    mkdir -p "$(dirname "$folder/$1")"
    "$BUZZ" sql "$2" --table "trips=$SAMPLE" --format "${3:-csv}" --output "$folder/$1" 2>"$folder/log" || {
        cat "$folder/log" >&2
        exit 1
    }
}

# How each vendor writes a way to pay, and its name.
write payment_types.csv "
    SELECT * FROM (VALUES ('CASH', 'cash'), ('Cash', 'cash'), ('CREDIT', 'card'), ('Credit', 'card'), ('No Charge', 'free'))
    AS t (payment_type, name)"

# Two days of trips in CSV, one file a day.
for day in 01 02; do
    write "trips/2009-01-$day.csv" "
        SELECT pickup_at, passenger_count, trip_distance, payment_type, total_amount FROM trips
        WHERE pickup_date = '2009-01-$day' ORDER BY pickup_at"
done

# A table without a log: a Parquet file a day, and a manifest that lists both.
files=
for day in 03 04; do
    file=listed/2009-01-$day.parquet
    write "$file" "
        SELECT pickup_at, passenger_count, total_amount FROM trips WHERE pickup_date = '2009-01-$day' ORDER BY pickup_at" parquet
    size=$(wc -c <"$folder/$file" | tr -d ' ')
    files="$files${files:+, }{\"uri\": \"$file\", \"size\": $size, \"partitions\": {\"day\": \"2009-01-$day\"}}"
done
cat >"$folder/manifest.json" <<EOF
{
    "schema": [
        {"name": "pickup_at", "type": "Timestamp(µs)"}, {"name": "passenger_count", "type": "Int8"},
        {"name": "total_amount", "type": "Float32"}, {"name": "day", "type": "Utf8"}
    ],
    "partition_columns": ["day"],
    "files": [$files]
}
EOF
rm -f "$folder/log"
echo "made $folder" >&2
