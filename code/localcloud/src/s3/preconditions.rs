//! Preconditions of reads, as defined by S3 and RFC 9110:
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-reads.html>.

use s3s::dto::{ETag, ETagCondition, Timestamp, TimestampFormat};
use s3s::{S3Result, s3_error};

/// The conditional headers of a read request.
#[derive(Debug, Default)]
pub(super) struct Preconditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
    pub(super) if_modified_since: Option<Timestamp>,
    pub(super) if_unmodified_since: Option<Timestamp>,
}

impl Preconditions {
    /// Checks the conditions against the object's ETag and modification time.
    ///
    /// # Errors
    /// `PreconditionFailed` (412) or `NotModified` (304).
    pub(super) fn check(&self, tag: Option<&ETag>, modified: Option<&Timestamp>) -> S3Result<()> {
        // A condition on the ETag overrides the condition on the time.
        let meets = match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) => matches(condition, tag, ETag::strong_cmp),
            (None, Some(since)) => seconds(modified) <= seconds(Some(since)),
            (None, None) => true,
        };
        if !meets {
            return Err(s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold"));
        }
        let unchanged = match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) => matches(condition, tag, ETag::weak_cmp),
            (None, Some(since)) => seconds(modified) <= seconds(Some(since)),
            (None, None) => false,
        };
        if unchanged { Err(s3_error!(NotModified)) } else { Ok(()) }
    }
}

fn matches(condition: &ETagCondition, tag: Option<&ETag>, same: fn(&ETag, &ETag) -> bool) -> bool {
    match (condition, tag) {
        (ETagCondition::Any, _) => true,
        (ETagCondition::ETag(wanted), Some(tag)) => same(tag, wanted),
        (ETagCondition::ETag(_), None) => false,
    }
}

/// Returns whole seconds since 1970, since HTTP dates have no fractions.
fn seconds(time: Option<&Timestamp>) -> Option<i64> {
    let mut text = Vec::new();
    time?.format(TimestampFormat::EpochSeconds, &mut text).ok()?;
    let text = String::from_utf8(text).ok()?;
    text.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(preconditions: &Preconditions) -> String {
        let modified = Timestamp::parse(TimestampFormat::EpochSeconds, "1700000000.75").expect("a time");
        let tag = ETag::Strong("abc".to_string());
        match preconditions.check(Some(&tag), Some(&modified)) {
            Ok(()) => "met".to_string(),
            Err(error) => error.code().as_str().to_string(),
        }
    }

    fn tag(value: &str) -> Option<ETagCondition> {
        Some(ETagCondition::ETag(ETag::Strong(value.to_string())))
    }

    fn at(seconds: &str) -> Option<Timestamp> {
        Some(Timestamp::parse(TimestampFormat::EpochSeconds, seconds).expect("a time"))
    }

    #[test]
    fn preconditions_follow_rfc_9110() {
        assert_eq!(code(&Preconditions::default()), "met");
        assert_eq!(code(&Preconditions { if_match: tag("abc"), ..Default::default() }), "met");
        assert_eq!(code(&Preconditions { if_match: tag("x"), ..Default::default() }), "PreconditionFailed");
        assert_eq!(code(&Preconditions { if_none_match: tag("abc"), ..Default::default() }), "NotModified");
        assert_eq!(code(&Preconditions { if_none_match: tag("x"), ..Default::default() }), "met");
        assert_eq!(code(&Preconditions { if_modified_since: at("1700000000"), ..Default::default() }), "NotModified");
        assert_eq!(code(&Preconditions { if_modified_since: at("1699999999"), ..Default::default() }), "met");
        assert_eq!(code(&Preconditions { if_unmodified_since: at("1700000000"), ..Default::default() }), "met");
        let late = Preconditions { if_unmodified_since: at("1699999999"), ..Default::default() };
        assert_eq!(code(&late), "PreconditionFailed");
        let overridden = Preconditions { if_match: tag("abc"), if_unmodified_since: at("1"), ..Default::default() };
        assert_eq!(code(&overridden), "met");
    }
}
