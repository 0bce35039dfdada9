//! Files that DataFusion's scripts name and that its crate does not hold, with the same columns. Since plain DataFusion
//! reads them too, any rows will do.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use buzz_testkit::TPCH_TABLES;
use datafusion::error::Result;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use libtest_mimic::Failed;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::OnceCell;

use crate::inputs::Inputs;
use crate::tables::Tables;

static STAND_INS: OnceCell<std::result::Result<PathBuf, String>> = OnceCell::const_new();

/// Returns the folder of the files; the first call writes them.
///
/// - `core` stands for `core/tests/data`;
/// - `csv` for `testing/data/csv`;
/// - `parquet` for `parquet-testing/data`;
/// - `tpch` for `test_files/tpch/data`, and `tpch-csv` for `core/tests/tpch-csv`.
pub(crate) async fn get(inputs: &Inputs) -> std::result::Result<&'static Path, Failed> {
    let write = async || {
        let folder = inputs.scratch.path().join("stand-ins");
        write(&folder).map_err(|error| error.to_string())?;
        write_parquet(&folder).await.map_err(|error| error.to_string())?;
        let tables = Tables::get(inputs).await.map_err(|error| error.message().unwrap_or_default().to_string())?;
        write_tpch(tables, &folder).await.map_err(|error| error.to_string())?;
        Ok(folder)
    };
    STAND_INS.get_or_init(write).await.as_deref().map_err(|error| error.clone().into())
}

/// Writes the text files.
fn write(folder: &Path) -> std::io::Result<()> {
    let (core, csv) = (folder.join("core"), folder.join("csv"));
    for (name, text) in TEXTS {
        let path = core.join(name);
        fs::create_dir_all(path.parent().expect("a file is in a folder"))?;
        fs::write(path, text)?;
    }
    for (name, header, line) in LINES {
        let lines: String = (0..100).map(|row| line(row) + "\n").collect();
        fs::write(core.join(name), format!("{header}\n{lines}"))?;
    }
    fs::create_dir_all(core.join("partitioned_csv"))?;
    for file in 0..4 {
        let lines: String = (0..11).map(|row| format!("{file},{row},{}\n", row % 2 == 0)).collect();
        fs::write(core.join(format!("partitioned_csv/partition-{file}.csv")), lines)?;
    }
    fs::write(core.join("aggregate_simple.csv"), aggregate_simple(','))?;
    fs::write(core.join("aggregate_simple_pipe.csv"), aggregate_simple('|'))?;

    fs::create_dir_all(&csv)?;
    let mut lines = aggregate_test_100();
    let whole = |lines: &[String]| format!("{AGGREGATE_TEST_100}\n{}\n", lines.join("\n"));
    fs::write(csv.join("aggregate_test_100.csv"), whole(&lines))?;
    lines.sort();
    fs::write(core.join("aggregate_test_100_order_by_c1_asc.csv"), whole(&lines))?;
    let mut dated = format!("{AGGREGATE_TEST_100},c14,c15\n");
    for (row, line) in lines.iter().enumerate() {
        let (month, day) = (1 + row % 12, 1 + row % 28);
        let _ = writeln!(dated, "{line},2019-{month:02}-{day:02},2020-{month:02}-{day:02}T10:{:02}:00", row % 60);
    }
    fs::write(csv.join("aggregate_test_100_with_dates.csv"), dated)
}

/// Small text files below `core/tests/data`.
const TEXTS: [(&str, &str); 19] = [
    (
        "2.json",
        "{\"a\":1,\"b\":2.0,\"c\":false,\"d\":\"4\"}\n{\"a\":-10,\"b\":-3.5,\"c\":true,\"d\":\"4\"}\n{\"a\":null,\"b\":0.6}\n",
    ),
    ("3.json", "{\"mixed\":\"NaN\"}\n"),
    ("cr_terminator.csv", "c1,c2\rid0,value0\rid1,value1\rid2,value2\r"),
    ("double_quote.csv", "c1,c2\nid0,\"\"\"value0\"\"\"\nid1,\"\"\"value1\"\"\"\nid2,value2\n"),
    ("empty.csv", "c1,c2,c3\n"),
    ("escape.csv", "c1,c2\nid0,\"value\\\"0\"\nid1,\"value\\\"1\"\nid2,value2\n"),
    ("example.csv", "a,b,c\n1,2,3\n4,5,6\n"),
    ("int_to_float_cast_precision.csv", "k,v\n1,16777217\n2,16777216\n"),
    ("json_array.json", "[{\"a\":1,\"b\":\"hello\"},{\"a\":2,\"b\":\"world\"},{\"a\":3,\"b\":\"test\"}]\n"),
    ("newlines_in_values.csv", "id,message\n1,\"hello\nworld\"\n2,\"something\nelse\"\n3,plain\n"),
    ("quote.csv", "c1,c2\n~id0~,~value0~\n~id1~,~value1~\n~id2~,~value2~\n"),
    (
        "timestamps.csv",
        "Andrew,2018-12-13T12:12:10.011\nJorge,2018-12-13T12:01:44.237\nPatrick,2018-11-13T17:11:10.011\n",
    ),
    ("recursive_cte/balance.csv", "time,name,account_balance\n1,John,100\n1,Tim,200\n2,John,300\n2,Tim,400\n"),
    ("recursive_cte/closure.csv", "start,end\n1,2\n2,3\n2,4\n4,3\n3,1\n"),
    ("recursive_cte/growth.csv", "name,account_growth\nJohn,3\nTim,20\nEliza,150\n"),
    (
        "recursive_cte/sales.csv",
        "salesperson_id,sale_id,sale_amount\n1,1,100\n2,2,150\n3,3,75\n4,4,50\n5,5,25\n6,6,10\n7,7,60\n2,8,5\n",
    ),
    ("recursive_cte/salespersons.csv", "salesperson_id,manager_id\n1,\n2,1\n3,1\n4,2\n5,2\n6,3\n7,5\n"),
    ("partitioned_table_json/part=1/data.json", "{\"id\":1,\"value\":10}\n{\"id\":2,\"value\":20}\n"),
    ("partitioned_table_json/part=2/data.json", "{\"id\":3,\"value\":30}\n"),
];

/// Files of 100 lines below `core/tests/data`: name, header, and the line of a row.
type Lines = (&'static str, &'static str, fn(i32) -> String);

const LINES: [Lines; 7] = [
    // Ordered by `a, b` and by `c`.
    ("aggregate_agg_multi_order.csv", "a0,a,b,c,d", |row| {
        format!("{},{},{},{row},{}", row % 2, row / 50, row / 25, row % 5)
    }),
    ("convert_first_last.csv", "c1,c2,c3", |row| format!("{row},{},{}", 99 - row, 99 - row)),
    ("decimal_data.csv", "c1,c2,c3,c4,c5", |row| {
        let value = 1 + row % 5;
        format!("0.0000{value},{value}e-12,{value},{},0.00001{}", row % 2 == 0, row % 10)
    }),
    ("null_cases.csv", "c1,c2,c3", |row| {
        let some = |keep: bool, value: String| if keep { value } else { String::new() };
        let first = some(row % 7 > 0, (row * 37 % 100).to_string());
        let second = some(row % 5 > 0, format!("{}.5", row * 53 % 100));
        format!("{first},{second},{}", some(row % 9 > 0, (row * 71 % 100).to_string()))
    }),
    ("recursive_cte/prices.csv", "Index,product,price,prices_row_num", |row| {
        format!("{row},product_{},{}.{:02},{row}", row % 3, 20 + row * 7 % 50, row * 13 % 100)
    }),
    ("window_1.csv", "ts,inc_col,desc_col", |row| format!("{},{},{}", 100 + row * 7, 1 + row * 5, 500 - row * 5)),
    // Ordered by `a, b, c`, and `c` is unique.
    ("window_2.csv", "a0,a,b,c,d", |row| {
        format!("{},{},{},{row},{}", row % 2, row / 50, row / 25, (row * 7 + row / 3) % 5)
    }),
];

/// Writes the Parquet files.
async fn write_parquet(folder: &Path) -> Result<()> {
    let ctx = SessionContext::new();
    let files = [
        ("parquet/alltypes_plain.parquet", ALLTYPES_PLAIN),
        ("core/clickbench_hits_10.parquet", CLICKBENCH_HITS),
        ("core/parquet_map.parquet", PARQUET_MAP),
        ("core/test_statistics_per_partition/file.parquet", STATISTICS),
        ("core/timestamp_with_tz.parquet", TIMESTAMP_WITH_TZ),
    ];
    for (file, sql) in files {
        let target = folder.join(file);
        ctx.sql(&format!("COPY ({sql}) TO '{}' STORED AS PARQUET", target.display())).await?.collect().await?;
    }
    Ok(())
}

/// The columns of `alltypes_plain.parquet`. Texts are bytes there.
const ALLTYPES_PLAIN: &str = "SELECT arrow_cast(value, 'Int32') AS id, value % 2 = 0 AS bool_col, \
    arrow_cast(value % 2, 'Int32') AS tinyint_col, arrow_cast(value % 2, 'Int32') AS smallint_col, \
    arrow_cast(value % 2, 'Int32') AS int_col, value % 2 * 10 AS bigint_col, \
    arrow_cast(value % 2 * 1.1, 'Float32') AS float_col, value % 2 * 10.1 AS double_col, \
    arrow_cast('0' || CAST(value / 2 + 1 AS VARCHAR) || '/01/09', 'Binary') AS date_string_col, \
    arrow_cast(CAST(value % 2 AS VARCHAR), 'Binary') AS string_col, \
    arrow_cast(1235865600000000000 + value * 60000000000, 'Timestamp(Nanosecond, None)') AS timestamp_col \
    FROM (SELECT column1 AS value FROM (VALUES (4), (5), (6), (7), (2), (3), (0), (1)))";

const PARQUET_MAP: &str = "SELECT map(['bytes', 'count'], [value * 131 % 977, value % 7]) AS ints, \
    map(['host', 'method'], ['198.51.100.' || CAST(value % 20 AS VARCHAR), \
    CASE WHEN value % 3 = 0 THEN 'GET' ELSE 'PUT' END]) AS strings, \
    '06/Oct/2023:17:' || CAST(10 + value % 50 AS VARCHAR) || ':00 +0000' AS timestamp FROM generate_series(1, 209)";

const STATISTICS: &str = "SELECT arrow_cast(value, 'Int32') AS id, 'name ' || CAST(value AS VARCHAR) AS name \
    FROM generate_series(1, 20)";

const TIMESTAMP_WITH_TZ: &str = "SELECT value % 11 AS count, \
    arrow_cast(1389050000000 + value * 60000, 'Timestamp(Millisecond, Some(\"UTC\"))') AS timestamp \
    FROM generate_series(1, 500)";

/// The columns of ClickBench's table that its statements name, with values that the statements look for.
const CLICKBENCH_HITS: &str = r#"SELECT value * 7919 AS "WatchID", arrow_cast(value % 2, 'Int16') AS "JavaEnable",
    CASE WHEN value % 4 = 0 THEN 'Page of Google ' || CAST(value % 9 AS VARCHAR) ELSE 'Page ' || CAST(value % 30 AS VARCHAR) END AS "Title",
    1373840000 + value * 600 AS "EventTime", arrow_cast(15887 + value % 31, 'UInt16') AS "EventDate",
    arrow_cast(CASE WHEN value % 2 = 0 THEN 62 ELSE value % 50 END, 'Int32') AS "CounterID",
    arrow_cast(value * 104729 % 997, 'Int32') AS "ClientIP", arrow_cast(value % 23, 'Int32') AS "RegionID",
    CASE WHEN value % 20 = 0 THEN 435090932899640449 ELSE value * 1299709 % 61 END AS "UserID",
    CASE WHEN value % 3 = 0 THEN 'http://google.com/' || CAST(value % 11 AS VARCHAR) ELSE 'http://example.org/' || CAST(value % 40 AS VARCHAR) END AS "URL",
    CASE WHEN value % 5 = 0 THEN '' ELSE 'https://www.from.example/' || CAST(value % 17 AS VARCHAR) END AS "Referer",
    arrow_cast(CASE WHEN value % 7 = 0 THEN 1 ELSE 0 END, 'Int16') AS "IsRefresh", arrow_cast(800 + value % 900, 'Int16') AS "ResolutionWidth",
    arrow_cast(700 + value % 300, 'Int16') AS "WindowClientWidth", arrow_cast(500 + value % 200, 'Int16') AS "WindowClientHeight",
    arrow_cast(value % 24, 'Int16') AS "ClientTimeZone", arrow_cast(value % 2, 'Int16') AS "IsMobile",
    arrow_cast(value % 6, 'Int16') AS "MobilePhone", CASE WHEN value % 3 = 0 THEN 'iPhone ' || CAST(value % 4 AS VARCHAR) ELSE '' END AS "MobilePhoneModel",
    arrow_cast(value % 9 - 1, 'Int16') AS "TraficSourceID", arrow_cast(value % 4, 'Int16') AS "SearchEngineID",
    CASE WHEN value % 2 = 0 THEN 'phrase ' || CAST(value % 13 AS VARCHAR) ELSE '' END AS "SearchPhrase",
    arrow_cast(CASE WHEN value % 8 = 0 THEN value % 5 ELSE 0 END, 'Int16') AS "AdvEngineID",
    arrow_cast(value % 3, 'Int16') AS "IsLink", arrow_cast(CASE WHEN value % 10 = 0 THEN 1 ELSE 0 END, 'Int16') AS "IsDownload",
    arrow_cast(CASE WHEN value % 9 = 0 THEN 1 ELSE 0 END, 'Int16') AS "DontCountHits", arrow_cast(value % 5, 'Int16') AS "HitColor",
    CASE WHEN value % 6 = 0 THEN 'net' ELSE '' END AS "SocialNetwork", CASE WHEN value % 6 = 0 THEN 'like' ELSE '' END AS "SocialAction",
    arrow_cast(value % 6, 'Int16') AS "SocialSourceNetworkID", 'l' || CAST(value % 5 AS VARCHAR) AS "BrowserLanguage",
    'c' || CAST(value % 8 AS VARCHAR) AS "BrowserCountry", arrow_cast(20 + value % 50, 'Int16') AS "Age",
    value % 100 AS "ParamPrice", arrow_cast(value % 400, 'Int32') AS "ResponseStartTiming",
    CASE WHEN value % 5 = 0 THEN 'mail' ELSE '' END AS "UTMSource", CASE WHEN value % 5 = 0 THEN 'spring' ELSE '' END AS "UTMCampaign",
    CASE WHEN value % 4 = 0 THEN 3594120000172545465 ELSE value END AS "RefererHash",
    CASE WHEN value % 4 = 0 THEN 2868770270353813622 ELSE value END AS "URLHash"
    FROM generate_series(1, 400)"#;

/// Writes the tables of TPC-H as its own generator does, with bars between the values and one at the end; and the first
/// rows of some as CSV.
async fn write_tpch(tables: &Tables, folder: &Path) -> Result<()> {
    for name in TPCH_TABLES {
        let ctx = SessionContext::new();
        let path = format!("{}/", tables.table(name).written.files.display());
        ctx.register_parquet(name, path, ParquetReadOptions::default()).await?;
        let lines = folder.join(format!("tpch/{name}.tbl"));
        let copy = format!(
            "COPY (SELECT *, '' AS rev FROM {name}) TO '{}' STORED AS CSV \
             OPTIONS ('format.delimiter' '|', 'format.has_header' 'false')",
            lines.display()
        );
        ctx.sql(&copy).await?.collect().await?;
        let csv = folder.join(format!("tpch-csv/{name}.csv"));
        let copy = format!(
            "COPY (SELECT * FROM {name} LIMIT 100) TO '{}' STORED AS CSV OPTIONS ('format.has_header' 'true')",
            csv.display()
        );
        ctx.sql(&copy).await?.collect().await?;
    }
    Ok(())
}

const AGGREGATE_TEST_100: &str = "c1,c2,c3,c4,c5,c6,c7,c8,c9,c10,c11,c12,c13";

/// Returns 100 lines with all kinds of numbers, which are different in every row where there is room.
fn aggregate_test_100() -> Vec<String> {
    let mut random = StdRng::seed_from_u64(100);
    let line = |row: u32| {
        let letter = ['a', 'b', 'c', 'd', 'e'][random.random_range(0..5)];
        let (c2, c3, c4) = (random.random_range(1..=5), random.random::<i8>(), random.random::<i16>());
        let (c5, c6, c7) = (random.random::<i32>(), random.random::<i64>(), random.random::<u8>());
        let (c8, c9, c10) = (random.random::<u16>(), random.random::<u32>(), random.random::<u64>());
        let (c11, c12) = (random.random::<f32>(), random.random::<f64>());
        let c13: String = (0..29).map(|_| char::from(random.random_range(b'A'..=b'Z'))).collect();
        format!("{letter},{c2},{c3},{c4},{c5},{c6},{c7},{c8},{c9},{c10},{c11},{c12},{c13}{row}")
    };
    (0..100).map(line).collect()
}

fn aggregate_simple(delimiter: char) -> String {
    let mut text = format!("c1{delimiter}c2{delimiter}c3\n");
    for row in 1..=5_i32 {
        for _ in 0..row {
            let (c1, c2) = (format!("{}.0000{row}", row / 4), format!("{}.000000000{row}0{row}", row / 3));
            let _ = writeln!(text, "{c1}{delimiter}{c2}{delimiter}{}", row % 2 == 1);
        }
    }
    text
}
