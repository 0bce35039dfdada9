//! Columns of tables and those of files, and names of files.

use crate::support::{Folder, Result, fails, succeeds};

/// A column that the files have only with other capital letters would be NULL in each row.
pub(crate) fn capitals() -> Result {
    let folder = Folder::new()?;
    let json = folder.write("in.json", "{\"id\":1,\"userId\":5}\n{\"id\":2}\n")?;
    let csv = folder.write("in.csv", "id,userId\n1,5\n2,\n")?;
    for (path, format) in [(json, "json"), (csv, "csv")] {
        let script = |column: &str| {
            let text = format!(
                "CREATE TABLE t (id BIGINT, {column} BIGINT) WITH (connector='single_file', path='{}', format='{format}');\n\
                 SELECT * FROM t;",
                path.display()
            );
            Ok::<_, libtest_mimic::Failed>(folder.write("s.sql", &text)?.display().to_string())
        };
        let error = fails(&["run", &script("userId")?, "--until-end"])?;
        if !error.contains("column `userid` of the table is `userId` in the file") {
            return Err(format!("{format}: {error}").into());
        }
        let out = succeeds(&["run", &script("\"userId\"")?, "--until-end"])?;
        if out != "{\"id\":1,\"userId\":5}\n{\"id\":2,\"userId\":null}\n" {
            return Err(format!("{format}: {out}").into());
        }
        // A column that no file has is NULL.
        let out = succeeds(&["run", &script("\"userId\" BIGINT, absent")?, "--until-end"])?;
        if !out.contains("{\"id\":1,\"userId\":5,\"absent\":null}") {
            return Err(format!("{format}: {out}").into());
        }
    }
    Ok(())
}

/// A followed folder with a pattern in its name would be waited for.
pub(crate) fn pattern() -> Result {
    let folder = Folder::new()?;
    std::fs::create_dir(folder.path("in"))?;
    folder.write("in/a*.json", "{\"id\":1}\n")?;
    let script = |connector: &str, path: &str| {
        let text = format!(
            "CREATE TABLE t (id BIGINT) WITH (connector='{connector}', format='json', path='{}');\nSELECT * FROM t;",
            folder.text(path)
        );
        Ok::<_, libtest_mimic::Failed>(folder.write("s.sql", &text)?.display().to_string())
    };
    let error = fails(&["run", &script("filesystem", "in/*.json")?, "--epochs", "1"])?;
    if !error.contains("name the folder, without `*`") {
        return Err(error.into());
    }
    // The sign may be in the name of a file.
    let out = succeeds(&["run", &script("single_file", "in/a*.json")?, "--until-end"])?;
    if out == "{\"id\":1}\n" { Ok(()) } else { Err(out.into()) }
}

/// A row with NULL in a column that is NOT NULL is bad, with an event time and without one.
pub(crate) fn not_null() -> Result {
    let folder = Folder::new()?;
    let rows = "{\"t\":\"2024-01-01T00:00:01\",\"id\":1,\"k\":null}\n{\"t\":\"2024-01-01T00:00:02\",\"k\":\"a\"}\n\
                {\"t\":\"2024-01-01T00:00:03\",\"id\":3}\n";
    let input = folder.write("in.json", rows)?;
    for watermark in ["", ", WATERMARK FOR t"] {
        let script = |bad_data: &str, select: &str| {
            let text = format!(
                "CREATE TABLE s (t TIMESTAMP, id BIGINT NOT NULL, k TEXT{watermark}) WITH (connector='single_file', \
                 path='{}', format='json', bad_data='{bad_data}');\n{select}",
                input.display()
            );
            Ok::<_, libtest_mimic::Failed>(folder.write("s.sql", &text)?.display().to_string())
        };
        let error = fails(&["run", &script("fail", "SELECT id FROM s;")?, "--until-end"])?;
        if !error.contains("column `id` is NULL, but declared as NOT NULL") {
            return Err(error.into());
        }
        let select = "SELECT id FROM s;\nSELECT text FROM s__bad;";
        let out = succeeds(&["run", &script("side", select)?, "--until-end"])?;
        let bad = "{\"text\":\"t: 2024-01-01T00:00:02, id: , k: a\"}\n";
        if out != format!("{{\"id\":1}}\n{{\"id\":3}}\n{bad}") {
            return Err(out.into());
        }
    }
    Ok(())
}
