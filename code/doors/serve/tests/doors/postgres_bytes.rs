//! Clients of PostgreSQL's protocol that send nonsense, stop in the middle, or die.

use buzz_serve::Bounds;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Served, client, endless, server, until_running};

/// Sends `bytes` and returns what the server answers until it closes the connection.
async fn answer(served: &Served, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(served.postgres).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // The server may close the connection while bytes are unread.
    drop(stream.read_to_end(&mut answer).await);
    answer
}

/// Returns a login message.
fn startup() -> Vec<u8> {
    let body = b"\0\x03\0\0user\0ann\0\0";
    let mut bytes = u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_its_connection_only() {
    let served = server().await;
    let other = client(&served).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let huge = answer(&served, &[0x40, 0, 0, 0]).await;
    assert!(text(&huge).contains("longer than 10000 bytes"), "{}", text(&huge));
    let version = answer(&served, &[0, 0, 0, 8, 0, 2, 0, 0]).await;
    assert!(text(&version).contains("protocol version 2.0 is not supported"), "{}", text(&version));
    assert!(text(&answer(&served, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await).contains("54000"));
    // A query before the login, and a login message that is cut.
    let early = [startup(), b"Q\0\0\0\x0dSELECT 1\0".to_vec()].concat();
    assert!(text(&answer(&served, &early).await).contains("a message was sent before the login"));
    let mut generator = 7_u64;
    for length in 0..200 {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                generator = generator.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                generator.to_be_bytes()[0]
            })
            .collect();
        let mut stream = TcpStream::connect(served.postgres).await.unwrap();
        let start = if length % 2 == 0 { startup() } else { Vec::new() };
        drop(stream.write_all(&[start, bytes].concat()).await);
    }
    assert_eq!(other.query("SELECT id FROM kinds", &[]).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn query_is_cancelled_on_request() {
    let served = endless(Bounds { running: 1, waiting: 1, answers: 1 }).await;
    let client = client(&served).await;
    let token = client.cancel_token();
    let query = tokio::spawn(async move { client.simple_query("SELECT a FROM t").await.map(|_| client) });
    until_running(&served, 1).await;
    token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    let error = query.await.unwrap().expect_err("the query was cancelled");
    assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}");
    until_running(&served, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn query_ends_when_its_client_dies() {
    let served = endless(Bounds { running: 1, waiting: 1, answers: 1 }).await;
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(served.postgres.port()).user("ann").password(crate::common::KEY);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let query = tokio::spawn(async move { client.simple_query("SELECT a FROM t").await.map(drop) });
    until_running(&served, 1).await;
    // Closes the socket without a message that says so.
    connection.abort();
    until_running(&served, 0).await;
    assert!(query.await.unwrap().is_err());
}
