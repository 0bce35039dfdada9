//! The cluster of a topic: settings of its clients, and their errors.

use std::time::Duration;

use buzz_protocol::{QueryError, Result};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Maximum time of a request.
pub(super) const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Settings of clients that decide about correctness, or load programs, so no option may change them.
const OWN: [&str; 12] = [
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "auto.offset.reset",
    "group.id",
    "isolation.level",
    "metadata.broker.list",
    "plugin.library.paths",
    "ssl.engine.location",
    "transactional.id",
];

/// The cluster of a topic.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    /// Addresses of brokers, as `host:port, host:port`.
    pub(crate) servers: String,
    /// Further settings of librdkafka. Some are secret.
    settings: Vec<(String, String)>,
    /// The topic.
    pub(crate) topic: String,
}

impl Cluster {
    /// Makes a cluster with further settings of librdkafka, for table `table`.
    ///
    /// # Errors
    /// `Invalid` if a setting is one that Buzz makes.
    pub(crate) fn new(table: &str, servers: String, topic: String, settings: Vec<(String, String)>) -> Result<Self> {
        if let Some((name, _)) = settings.iter().find(|(name, _)| OWN.contains(&name.as_str())) {
            return Err(QueryError::invalid(format!(
                "option `client_configs.{name}` of table `{table}` is set by Buzz, since it decides whether each record \
                 counts once, or what runs in this process; remove it"
            )));
        }
        Ok(Self { servers, settings, topic })
    }

    /// Returns the settings of a client.
    pub(super) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers).set("client.id", "buzz");
        for (name, value) in &self.settings {
            config.set(name, value);
        }
        config
    }

    /// Returns an error of a client as one that names the topic and says what to do.
    pub(super) fn failed(&self, doing: &str, error: &KafkaError) -> QueryError {
        let topic = if self.topic.is_empty() { String::new() } else { format!("topic `{}` at ", self.topic) };
        let text = format!("{topic}{}: {doing}: {error}", self.servers);
        match error {
            KafkaError::ClientConfig(_, reason, name, _) => QueryError::invalid(format!(
                "setting `{name}` of the client is not accepted: {reason}; correct or remove `client_configs.{name}` or the \
                 options of `auth`"
            )),
            KafkaError::ClientCreation(reason) => QueryError::invalid(format!(
                "no client of Kafka can be made: {reason}; correct `client_configs` or the options of `auth`"
            )),
            _ => match error.rdkafka_error_code() {
                Some(
                    RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::GroupAuthorizationFailed
                    | RDKafkaErrorCode::ClusterAuthorizationFailed
                    | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
                    | RDKafkaErrorCode::SaslAuthenticationFailed
                    | RDKafkaErrorCode::InvalidTopic,
                ) => QueryError::data(format!("{text}; correct `topic` or `client_configs`, or grant the permissions")),
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => QueryError::data(format!(
                    "{text}; make the rows smaller, or raise `client_configs.message.max.bytes` and max.message.bytes of the \
                     topic"
                )),
                _ => QueryError::unavailable(text),
            },
        }
    }
}

/// Connects to a cluster, and returns how many brokers it has.
///
/// # Errors
/// `Unavailable` if none answers, `Invalid` or `Data` if a setting is wrong or the client is refused.
pub(crate) async fn brokers(cluster: Cluster) -> Result<String> {
    blocking(move || {
        let client: Result<BaseConsumer, KafkaError> = cluster.config().create();
        let client = client.map_err(|error| cluster.failed("connecting", &error))?;
        let metadata = client.fetch_metadata(None, REQUEST_MAX);
        let metadata = metadata.map_err(|error| cluster.failed("asking for its brokers", &error))?;
        Ok(format!("{} answers; the cluster has {} brokers", cluster.servers, metadata.brokers().len()))
    })
    .await
}

/// Starts `work` at once on a thread for blocking calls. The future returns its result.
///
/// # Errors
/// Errors of `work`; `Internal` if it panics.
pub(super) fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> impl Future<Output = Result<T>> {
    let done = tokio::task::spawn_blocking(work);
    async move {
        done.await.unwrap_or_else(|error| Err(QueryError::internal(format!("a client of Kafka stopped: {error}"))))
    }
}
