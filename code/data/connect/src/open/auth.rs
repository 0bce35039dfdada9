//! Credentials of clients of Kafka: the options of Arroyo, as settings of librdkafka.

use buzz_protocol::{QueryError, Result};

use crate::options::Options;

/// Reads the options `auth.type`, `auth.protocol`, `auth.mechanism`, `auth.username` and `auth.password`, and those that
/// begin with `client_configs.`. Returns settings of librdkafka, of which some are secret.
///
/// # Errors
/// `Invalid`, without secrets, if an option is missing or not known, or a setting is made in both ways.
pub(super) fn client_settings(options: &mut Options) -> Result<Vec<(String, String)>> {
    let table = options.table().to_string();
    let mut settings = options.prefixed("client_configs.");
    let [kind, protocol, mechanism, user, password] =
        ["type", "protocol", "mechanism", "username", "password"].map(|name| options.text(&[&format!("auth.{name}")]));
    let wrong = |option: &str, found: &str, known: &str| {
        QueryError::invalid(format!("option `auth.{option}` of table `{table}` is `{found}`; use {known}"))
    };
    match kind.as_deref() {
        Some("sasl") => {}
        None | Some("none") if protocol.is_some() || mechanism.is_some() || user.is_some() || password.is_some() => {
            return Err(QueryError::invalid(format!(
                "table `{table}` has options of `auth` that count only with `auth.type` = 'sasl'; set it, or remove them"
            )));
        }
        None | Some("none") => return Ok(settings),
        Some(other) => return Err(wrong("type", other, "none or sasl")),
    }
    let required = |option: &str, value: Option<String>| {
        value.ok_or_else(|| {
            QueryError::invalid(format!("table `{table}` has `auth.type` = 'sasl' and no `auth.{option}`; add it"))
        })
    };
    let protocol = required("protocol", protocol)?.to_ascii_uppercase();
    if !["SASL_PLAINTEXT", "SASL_SSL"].contains(&protocol.as_str()) {
        return Err(wrong("protocol", &protocol, "SASL_PLAINTEXT or SASL_SSL"));
    }
    let mechanism = required("mechanism", mechanism)?.to_ascii_uppercase();
    if !["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].contains(&mechanism.as_str()) {
        return Err(wrong("mechanism", &mechanism, "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"));
    }
    let made = [
        ("security.protocol", protocol),
        ("sasl.mechanism", mechanism),
        ("sasl.username", required("username", user)?),
        ("sasl.password", required("password", password)?),
    ];
    for (name, value) in made {
        let is_same = |known: &str| known == name || (name == "sasl.mechanism" && known == "sasl.mechanisms");
        if settings.iter().any(|(known, _)| is_same(known)) {
            return Err(QueryError::invalid(format!(
                "table `{table}` sets `client_configs.{name}` and options of `auth`; remove one of them"
            )));
        }
        settings.push((name.to_string(), value));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The settings of a table with `options`, as `name=value`.
    fn settings(options: &[&str]) -> Result<Vec<String>> {
        let options = options.iter().filter_map(|option| option.split_once('='));
        let values: BTreeMap<String, String> =
            options.map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let mut options = Options::new("t", &values);
        let settings = client_settings(&mut options)?;
        options.finish()?;
        Ok(settings.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
    }

    const SASL: [&str; 5] = [
        "auth.type=sasl",
        "auth.protocol=SASL_SSL",
        "auth.mechanism=scram-sha-256",
        "auth.username=me",
        "auth.password=word",
    ];

    #[test]
    fn options_of_arroyo_are_settings_of_the_client() {
        let ca = "client_configs.ssl.ca.location=/ca.pem";
        let found = settings(&[SASL.as_slice(), &[ca]].concat()).expect("they are right");
        let expected = [
            "ssl.ca.location=/ca.pem",
            "security.protocol=SASL_SSL",
            "sasl.mechanism=SCRAM-SHA-256",
            "sasl.username=me",
            "sasl.password=word",
        ];
        assert_eq!(found, expected);
        assert!(settings(&["auth.type=none"]).expect("it is right").is_empty());
        assert_eq!(settings(&[ca]).expect("it is right"), ["ssl.ca.location=/ca.pem"]);
    }

    #[test]
    fn wrong_options_are_named_without_the_password() {
        let with = |index: usize, option: &'static str| {
            let mut options = SASL.to_vec();
            options[index] = option;
            options
        };
        let both = [SASL.as_slice(), &["client_configs.sasl.mechanisms=PLAIN"]].concat();
        for (options, reason) in [
            (with(0, "auth.type=aws_msk_iam"), "`auth.type` of table `t` is `aws_msk_iam`; use none or sasl"),
            (SASL[1..].to_vec(), "count only with `auth.type` = 'sasl'"),
            (with(1, "auth.protocol=SSL"), "use SASL_PLAINTEXT or SASL_SSL"),
            (with(2, "auth.mechanism=GSSAPI"), "use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
            (SASL[..4].to_vec(), "no `auth.password`"),
            (both, "sets `client_configs.sasl.mechanism` and options of `auth`"),
        ] {
            let error = settings(&options).expect_err("an option is wrong").message;
            assert!(error.contains(reason) && !error.contains("word;"), "{error}");
        }
    }
}
