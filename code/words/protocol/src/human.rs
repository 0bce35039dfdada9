//! Numbers for people.

/// Formats `count` bytes with a decimal unit, for example `12.3 MB`.
pub fn human_bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::human_bytes;

    #[test]
    fn bytes_are_formatted_with_a_decimal_unit() {
        assert_eq!(
            [0, 999, 1_000, 999_400, 12_345_678, 7_000_000_000].map(human_bytes),
            ["0 B", "999 B", "1.0 kB", "999.4 kB", "12.3 MB", "7.0 GB"]
        );
    }
}
