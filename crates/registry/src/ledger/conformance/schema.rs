//! What both databases are opened with.

use sqlx::{Row as _, migrate::Migrator};

use super::*;

#[tokio::test]
async fn a_ledger_that_cannot_be_is_told_from_one_that_is_away() {
    for url in ["mysql://x", "sqlite:/dev/null/ledger.db", "postgres://localhost:port/x"] {
        assert!(matches!(open(url).await, Err(LedgerError::Broken(_))), "{url}");
    }
    let away = open("postgres://localhost/x?host=/nowhere").await;
    assert!(matches!(away, Err(LedgerError::Away(_))));
}

#[tokio::test]
async fn both_schemas_have_the_same_migrations_tables_and_columns() {
    let list =
        |m: &Migrator| m.iter().map(|m| (m.version, m.description.to_string())).collect::<Vec<_>>();
    assert_eq!(list(&sqlite::MIGRATOR), list(&postgres::MIGRATOR));

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger.db");
    open(&format!("sqlite:{}", path.display())).await.expect("a ledger");
    let url = testkit::Postgres::shared()
        .expect("PostgreSQL")
        .create_database()
        .await
        .expect("a database");
    open(&url).await.expect("a ledger");
    let lite = sqlx::query(
        "SELECT t.name || '.' || c.name FROM sqlite_master t, pragma_table_info(t.name) c \
         WHERE t.type = 'table' AND t.name NOT LIKE '\\_sqlx%' ESCAPE '\\'",
    );
    let lite_pool =
        sqlx::SqlitePool::connect(&format!("sqlite:{}", path.display())).await.expect("a pool");
    let lite = lite.fetch_all(&lite_pool).await.expect("columns");
    let pg = sqlx::PgPool::connect(&url).await.expect("a pool");
    let pg = sqlx::query(
        "SELECT table_name || '.' || column_name FROM information_schema.columns \
         WHERE table_schema = 'public' AND table_name NOT LIKE '\\_sqlx%'",
    )
    .fetch_all(&pg)
    .await
    .expect("columns");
    let mut lite: Vec<String> = lite.iter().map(|r| r.get(0)).collect();
    let mut pg: Vec<String> = pg.iter().map(|r| r.get(0)).collect();
    lite.sort();
    pg.sort();
    assert_eq!(lite, pg);
    assert!(lite.len() > 30);
}
