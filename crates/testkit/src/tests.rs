use std::time::Duration;

use sqlx::Connection;

use crate::{NatsServer, Postgres, eventually};

#[tokio::test]
async fn nats_keeps_its_port_and_its_streams_over_a_crash() -> anyhow::Result<()> {
    let mut server = NatsServer::builder().sync_always().config("max_payload: 64KB").start()?;
    let (url, pid) = (server.url(), server.pid());
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await?);
    let stream = async_nats::jetstream::stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["kept.>".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(stream).await?;
    jetstream.publish("kept.one", "payload".into()).await?.await?;

    server.kill()?;
    server.restart()?;

    assert_eq!(server.url(), url);
    assert_ne!(server.pid(), pid);
    assert!(server.data_dir().is_dir());
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await?);
    let info = jetstream.get_stream("KEPT").await?.get_info().await?;
    assert_eq!(info.state.messages, 1);
    Ok(())
}

#[tokio::test]
async fn nats_ends_when_dropped() -> anyhow::Result<()> {
    let server = NatsServer::start()?;
    let address = ("127.0.0.1", server.port());
    let folder = server.data_dir();
    drop(server);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn each_database_is_empty_and_answers() -> anyhow::Result<()> {
    let server = Postgres::shared()?;
    for _database in 0..2 {
        let url = server.create_database().await?;
        let mut connection = sqlx::PgConnection::connect(&url).await?;
        sqlx::query("CREATE TABLE own (id integer PRIMARY KEY)").execute(&mut connection).await?;
        let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut connection).await?;
        assert_eq!(one, 1);
        connection.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_never_happens_is_named_in_the_error() {
    let never = eventually("a miracle", Duration::from_millis(20), async || None::<()>).await;
    assert!(never.unwrap_err().to_string().contains("a miracle"));
}
