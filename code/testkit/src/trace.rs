//! The check of the spans of one query.

use std::collections::{BTreeMap, BTreeSet};

use crate::ReceivedSpan;

/// Checks that all `spans` are of one trace, that each but the first has a parent among them, and that each parent has one of
/// the names that `parents` gives for the name of its child; none means the first span of the trace. Each name of `parents`
/// must occur.
///
/// # Panics
/// If one is not so.
pub fn check_one_trace(spans: &[ReceivedSpan], parents: &[(&str, &[&str])]) {
    let traces: BTreeSet<&str> = spans.iter().map(|span| span.trace.as_str()).collect();
    assert_eq!(traces.len(), 1, "one query is one trace: {spans:#?}");
    let by_id: BTreeMap<&str, &ReceivedSpan> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
    let expected: BTreeMap<&str, &[&str]> = parents.iter().copied().collect();
    for span in spans {
        let names = expected.get(span.name.as_str()).unwrap_or_else(|| panic!("an unknown span {span:#?}"));
        let parent = by_id.get(span.parent.as_str()).copied();
        match parent {
            None => assert!(names.is_empty() && span.parent.is_empty(), "the parent is missing of {span:#?}"),
            Some(parent) => assert!(names.contains(&parent.name.as_str()), "{parent:#?} is the parent of {span:#?}"),
        }
        assert!(span.time.0 <= span.time.1, "{span:#?}");
    }
    let names: BTreeSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    for (name, _) in parents {
        assert!(names.contains(name), "no span is named `{name}`: {names:?}");
    }
}
