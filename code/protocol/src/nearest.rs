//! Similar names, for the remedies of error messages.

/// Returns the candidate most similar to `name`. A candidate qualifies if at most half of the letters differ, or if one
/// name contains the other.
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
    fn short_candidate_is_not_suggested_for_a_long_name() {
        assert_eq!(nearest("elsewhere", ["rides", "m", "r"]), None);
    }

    #[test]
    fn typo_gets_a_suggestion_and_unrelated_name_gets_none() {
        let columns = ["payment_type", "fare_amount", "tip_amount"];
        assert_eq!(nearest("paymnet_type", columns), Some("payment_type"));
        assert_eq!(nearest("fare", columns), Some("fare_amount"));
        assert_eq!(nearest("colour", columns), None);
    }
}
