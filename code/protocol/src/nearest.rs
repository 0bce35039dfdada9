//! The nearest of some names, for error messages that help.

/// The candidate that most resembles `name`, if any does: at most half of the letters differ, or one name contains
/// the other.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let other = candidate.to_lowercase();
            let distance = strsim::damerau_levenshtein(&wanted, &other);
            let long = wanted.len() >= 3 && other.len() >= 3;
            let contained = long && (other.contains(&wanted) || wanted.contains(&other));
            let alike = distance * 2 <= wanted.chars().count().max(3);
            (alike || contained).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_short_name_is_not_near_to_everything() {
        assert_eq!(nearest("elsewhere", ["rides", "m", "r"]), None);
    }

    #[test]
    fn a_typo_finds_its_name_and_a_stranger_finds_none() {
        let columns = ["payment_type", "fare_amount", "tip_amount"];
        assert_eq!(nearest("paymnet_type", columns), Some("payment_type"));
        assert_eq!(nearest("fare", columns), Some("fare_amount"));
        assert_eq!(nearest("colour", columns), None);
    }
}
