//! Files that the scripts name and that the shared data lacks, with the same columns. Since plain DataFusion reads them
//! too, any rows will do.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use datafusion::error::Result;
use datafusion::prelude::{ParquetReadOptions, SessionContext};

use crate::shared_tables::TPCH;

/// Writes them below `folder`.
pub(crate) fn write(folder: &Path) -> std::io::Result<()> {
    let core = folder.join("core");
    fs::create_dir_all(core.join("recursive_cte"))?;
    fs::create_dir_all(folder.join("scratch"))?;
    fs::write(core.join("window_2.csv"), window())?;
    fs::write(core.join("aggregate_simple.csv"), aggregate_simple())?;
    fs::write(core.join("aggregate_agg_multi_order.csv"), multi_order())?;
    fs::write(core.join("convert_first_last.csv"), first_last())?;
    fs::write(
        core.join("recursive_cte/balance.csv"),
        "time,name,account_balance\n1,John,100\n1,Tim,200\n2,John,300\n2,Tim,400\n",
    )?;
    fs::write(core.join("recursive_cte/growth.csv"), "name,account_growth\nJohn,3\nTim,20\nEliza,150\n")?;
    fs::write(core.join("recursive_cte/closure.csv"), "start,end\n1,2\n2,3\n2,4\n4,3\n3,1\n")?;
    let salespersons = "salesperson_id,manager_id\n1,\n2,1\n3,1\n4,2\n5,2\n6,3\n7,5\n";
    fs::write(core.join("recursive_cte/salespersons.csv"), salespersons)?;
    let sales = "salesperson_id,sale_id,sale_amount\n1,1,100\n2,2,150\n3,3,75\n4,4,50\n5,5,25\n6,6,10\n7,7,60\n2,8,5\n";
    fs::write(core.join("recursive_cte/sales.csv"), sales)?;
    let mut prices = String::from("Index,product,price,prices_row_num\n");
    for row in 1..=60 {
        let _ = writeln!(prices, "{row},product_{},{}.{:02},{row}", row % 3, 20 + row * 7 % 50, row * 13 % 100);
    }
    fs::write(core.join("recursive_cte/prices.csv"), prices)
}

/// The tables of TPC-H as its own generator writes them, from those in `data`: bars between the values, and one at the end.
pub(crate) async fn write_tpch(data: &Path, folder: &Path) -> Result<()> {
    for table in TPCH {
        let ctx = SessionContext::new();
        let path = data.join(format!("tables/tpch-sf0.01/{table}.parquet")).to_string_lossy().into_owned();
        ctx.register_parquet(table, path, ParquetReadOptions::default()).await?;
        let target = folder.join(format!("tpch/{table}.tbl"));
        let copy = format!(
            "COPY (SELECT *, '' AS rev FROM {table}) TO '{}' STORED AS CSV \
             OPTIONS ('format.delimiter' '|', 'format.has_header' 'false')",
            target.display()
        );
        ctx.sql(&copy).await?.collect().await?;
    }
    Ok(())
}

/// `a0, a, b, c, d`: ordered by `a, b, c`, and `c` is unique.
fn window() -> String {
    let mut text = String::from("a0,a,b,c,d\n");
    for row in 0..100 {
        let _ = writeln!(text, "{},{},{},{row},{}", row % 2, row / 50, row / 25, (row * 7 + row / 3) % 5);
    }
    text
}

fn aggregate_simple() -> String {
    let mut text = String::from("c1,c2,c3\n");
    for row in 1..=5_i32 {
        for _ in 0..row {
            let _ = writeln!(text, "{}.0000{row},{}.000000000{row}0{row},{}", row / 4, row / 3, row % 2 == 1);
        }
    }
    text
}

/// `a0, a, b, c, d`: ordered by `a, b` and by `c`.
fn multi_order() -> String {
    let mut text = String::from("a0,a,b,c,d\n");
    for row in 0..100 {
        let _ = writeln!(text, "{},{},{},{row},{}", row % 2, row / 50, row / 25, row % 5);
    }
    text
}

fn first_last() -> String {
    let mut text = String::from("c1,c2,c3\n");
    for row in 0..10 {
        let _ = writeln!(text, "{row},{},{}", 9 - row, 9 - row);
    }
    text
}
