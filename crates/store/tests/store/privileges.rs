//! Roles: what each may do, and nothing more.

use defib_policy::attempt::Outcome;
use defib_store::{FleetScope, HoldScope, MayAct, NewHold, NewSuspicion, RecordBatch, RetentionSettings};
use defib_testkit::{PrivatePostgres, postgres};
use serde_json::json;
use std::time::Duration;
use tokio_postgres::error::SqlState;

use crate::fixture::{Fixture, store, watched};

/// A login with one of the roles. Roles are the cluster's, tests run side by side: each makes its own.
async fn login(fixture: &Fixture, role: &str) -> String {
    let database = fixture.text("select current_database()").await;
    let name = format!("{role}_of_{database}");
    fixture.run(&format!("create role {name} login in role {role}")).await;
    fixture.url.replace("postgres@", &format!("{name}@"))
}

#[tokio::test]
async fn the_daemon_can_do_all_that_it_does_and_not_touch_the_fleet() {
    let fixture = Fixture::new().await;
    fixture.run("insert into defib.workspaces (id, parent_id) values ('p', null), ('w', 'p')").await;
    let url = login(&fixture, "defib_daemon").await;
    let daemon = Fixture { store: store(&url), client: postgres::connect(&url).await.unwrap(), url };
    daemon
        .store
        .suspect(NewSuspicion { workspace: "w", reporter: "p", reason: "r", ..NewSuspicion::default() })
        .await
        .unwrap();
    assert_eq!(daemon.store.take_suspicions(5).await.unwrap().len(), 1);
    assert_eq!(daemon.fleet().await, ["p", "w"]);
    let id = daemon.grant("w", 1, 1).await;
    assert_eq!(daemon.may_act(id).await, MayAct::Yes);
    daemon.store.finish(id, Outcome::Succeeded, None).await.unwrap();
    daemon.store.recovered(id, &"w".into(), &json!({})).await.unwrap();
    daemon.store.read_attempts(FleetScope::All, Duration::ZERO).await.unwrap();
    daemon.store.acknowledge(&"w".into()).await.unwrap();
    let hold = NewHold { scope: HoldScope::Fleet, owner: "o", reason: "r", expires_in: None };
    daemon.store.hold(&hold).await.unwrap();
    daemon.store.release(&HoldScope::Fleet).await.unwrap();
    daemon.store.record(&RecordBatch { cleared: vec!["w".into()], ..RecordBatch::default() }).await.unwrap();
    let day = Duration::from_secs(86_400);
    daemon.store.retain(RetentionSettings { suspicions: day, events: day, attempts: day, batch: 10 }).await.unwrap();
    daemon.store.explain(&"w".into(), 10).await.unwrap();
    let facts = daemon.store.check_facts().await.unwrap();
    let missing: Vec<_> = facts.privileges.iter().filter(|privilege| !privilege.granted).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for sql in ["update defib.workspaces set status = 'x'", "delete from defib.workspaces", "drop table defib.restarts"]
    {
        assert_denied(&daemon, sql).await;
    }
}

#[tokio::test]
async fn a_reporter_can_report_and_nothing_else() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let url = login(&fixture, "defib_reporter").await;
    let reporter = Fixture { store: store(&url), client: postgres::connect(&url).await.unwrap(), url };
    reporter.run("select defib.report_suspicion('w', 'proxy', 'refused', 502, 'x')").await;
    for sql in [
        "select * from defib.suspicions",
        "select * from defib.fleet",
        "select * from defib.restarts",
        "insert into defib.suspicions (workspace_id, reporter, reason) values ('a', 'b', 'c')",
        "insert into defib.holds (scope, owner, reason) values ('fleet', 'b', 'c')",
        "select defib.mark_dead('w', '{}')",
        "select defib.mark_recovered('w', '{}')",
        "select * from defib.below_parked()",
    ] {
        assert_denied(&reporter, sql).await;
    }
}

#[tokio::test]
async fn a_viewer_can_read_and_nothing_else_and_anybody_else_nothing() {
    let fixture = Fixture::new().await;
    fixture.run("insert into defib.workspaces (id, parent_id) values ('p', null), ('w', 'p')").await;
    let url = login(&fixture, "defib_viewer").await;
    let viewer = Fixture { store: store(&url), client: postgres::connect(&url).await.unwrap(), url };
    for table in
        ["fleet", "workspaces", "suspicions", "restarts", "events", "verdicts", "leases", "holds", "schema_version"]
    {
        viewer.run(&format!("select * from defib.{table}")).await;
    }
    assert_eq!(viewer.store.status().await.unwrap().len(), 2);
    for sql in [
        "select defib.report_suspicion('w', 'p', 'r')",
        "select defib.mark_dead('w', '{}')",
        "update defib.holds set reason = 'x'",
        "delete from defib.events",
    ] {
        assert_denied(&viewer, sql).await;
    }

    let database = fixture.text("select current_database()").await;
    fixture.run(&format!("create role stranger_of_{database} login")).await;
    let url = PrivatePostgres::shared()
        .await
        .unwrap()
        .url(&database)
        .replace("postgres@", &format!("stranger_of_{database}@"));
    let stranger = Fixture { store: store(&url), client: postgres::connect(&url).await.unwrap(), url };
    assert_denied(&stranger, "select defib.report_suspicion('w', 'p', 'r')").await;
    let error = stranger.store.read_fleet(FleetScope::All, &watched()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_unavailable()), ("permission", false));
    let facts = stranger.store.check_facts().await.unwrap();
    assert!(
        facts.privileges.iter().all(|privilege| !privilege.granted || privilege.object == "defib.hold_reason"),
        "{facts:?}"
    );
    assert!(facts.fleet.unwrap_err().contains("permission denied"));
}

async fn assert_denied(fixture: &Fixture, sql: &str) {
    let error = fixture.client.batch_execute(sql).await.expect_err(sql);
    let denied = [SqlState::INSUFFICIENT_PRIVILEGE];
    assert!(error.code().is_some_and(|code| denied.contains(code)), "{sql}: {error:?}");
}
