//! A migrated database of one's own, with a store on it and a plain client beside it: the platform, the proxy, the operator.

use std::sync::Arc;
use std::time::{Duration, Instant};

use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::{Moment, Timestamp};
use defib_store::{Claim, Claimed, Clock, FleetScope, LeaseProof, MayAct, Store, StoreSettings};
use defib_testkit::{PrivatePostgres, postgres};
use serde_json::{Value, json};
use tokio_postgres::Client;

pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) client: Client,
    pub(crate) url: String,
}

pub(crate) const WATCHED: [&str; 3] = ["online", "degraded", "offline"];
pub(crate) const SOON: Duration = Duration::from_secs(10);

impl Fixture {
    pub(crate) async fn new() -> Self {
        let url = PrivatePostgres::shared().await.unwrap().create_database().await.unwrap();
        Self::on(url).await
    }

    pub(crate) async fn on(url: String) -> Self {
        let store = store(&url);
        store.migrate().await.unwrap();
        let fixture = Self { store, client: postgres::connect(&url).await.unwrap(), url };
        // The lease that `claim` claims under. Where there is a fixture already, there is a lease.
        fixture
            .run(
                "insert into defib.leases (engine, holder, epoch, expires_at) values ('default', 'replica-1', 7, 'infinity')
                     on conflict do nothing",
            )
            .await;
        fixture
    }

    /// The schema as an older defib left it, before migration 6.
    pub(crate) async fn back_to_version_5(&self) {
        self.run("drop schema defib cascade").await;
        for file in ["0001_fleet", "0002_suspicions", "0003_ledger", "0004_verdicts", "0005_replicas"] {
            let path = format!("{}/../../migrations/{file}.sql", env!("CARGO_MANIFEST_DIR"));
            self.run(&std::fs::read_to_string(path).unwrap()).await;
        }
        self.run("insert into defib.schema_version (version, name) values (5, '0005_replicas')").await;
    }

    /// Asks whether a granted attempt may turn to its engine.
    pub(crate) async fn may_act(&self, id: i64) -> MayAct {
        may_act(&self.store, id, &watched()).await
    }

    /// Another connection: somebody else's transaction.
    pub(crate) async fn another(&self) -> Client {
        postgres::connect(&self.url).await.unwrap()
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {}", shown(&error)));
    }

    /// The first column of the only row, as text.
    pub(crate) async fn text(&self, sql: &str) -> String {
        let row = self.client.query_one(&format!("select ({sql})::text"), &[]).await;
        row.unwrap_or_else(|error| panic!("{sql}: {}", shown(&error))).get::<_, Option<String>>(0).unwrap_or_default()
    }

    /// A container with a heartbeat.
    pub(crate) async fn workspace(&self, id: &str) {
        self.run(&format!("insert into defib.workspaces (id, last_heartbeat_at) values ('{id}', now())")).await;
    }

    pub(crate) async fn fleet(&self) -> Vec<String> {
        let (read, malformed) = self.store.read_fleet(FleetScope::All, &watched()).await.unwrap();
        assert!(malformed.is_empty(), "{malformed:?}");
        read.workspaces.iter().map(|workspace| workspace.id.to_string()).collect()
    }

    /// What the daemon would put in a claim, having just read the fleet.
    pub(crate) async fn evidence(&self, id: &str) -> Value {
        let ids = [WorkspaceId::from(id)];
        let (read, _) = self.store.read_fleet(FleetScope::Some(&ids), &watched()).await.unwrap();
        let workspace = read.workspaces.first().unwrap_or_else(|| panic!("{id} is not in the fleet"));
        json!({
            "status": workspace.status,
            "last_heartbeat_at": workspace.last_heartbeat_at,
            "last_activity_at": workspace.last_activity_at,
            "container_ref": workspace.container_ref,
            "instance_ref": workspace.instance_ref,
            "policy": workspace.policy,
        })
    }

    /// Claims attempt `attempt` of the incarnation that began at second `started`.
    pub(crate) async fn claim(&self, id: &str, evidence: Value, started: i64, attempt: u32) -> Claimed {
        claim(&self.store, id, evidence, started, attempt).await.unwrap()
    }

    pub(crate) async fn grant(&self, id: &str, started: i64, attempt: u32) -> i64 {
        let evidence = self.evidence(id).await;
        match self.claim(id, evidence, started, attempt).await {
            Claimed::Granted { id } => id,
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn claim(
    store: &Store,
    id: &str,
    evidence: Value,
    started: i64,
    attempt: u32,
) -> Result<Claimed, defib_store::StoreError> {
    let text = |name: &str| evidence.get(name).and_then(Value::as_str).map(str::to_owned);
    let (container_ref, instance_ref, policy) = (text("container_ref"), text("instance_ref"), text("policy"));
    store
        .claim(&Claim {
            workspace: &id.into(),
            engine: &EngineName::from("default"),
            container_ref: container_ref.as_deref(),
            instance_ref: instance_ref.as_deref(),
            policy: policy.as_deref(),
            container_id: Some(&"c0ffee".into()),
            started_at: Some(Timestamp(started * 1_000_000)),
            attempt,
            epoch: 7,
            verdict: "dead",
            evidence,
            claimed_by: "replica-1",
            deadline: Duration::from_secs(60),
        })
        .await
}

/// The lease of the fixture.
pub(crate) fn lease(engine: &EngineName) -> LeaseProof<'_> {
    LeaseProof { engine, holder: "replica-1", epoch: 7 }
}

pub(crate) async fn may_act(store: &Store, id: i64, watched: &[String]) -> MayAct {
    store.may_act(id, watched, lease(&"default".into()), Duration::from_secs(60)).await.unwrap()
}

pub(crate) fn settings(url: &str) -> StoreSettings {
    StoreSettings {
        url: url.to_owned(),
        application_name: "defib-test".into(),
        pool_size: 4,
        connect_timeout: Duration::from_secs(5),
        statement_timeout: Duration::from_secs(10),
        fleet_max: 250_000,
    }
}

pub(crate) fn clock() -> Clock {
    let origin = Instant::now();
    Arc::new(move || Moment::after(origin.elapsed()))
}

pub(crate) fn store(url: &str) -> Store {
    Store::new(&settings(url), clock()).unwrap()
}

pub(crate) fn watched() -> Vec<String> {
    WATCHED.map(str::to_owned).to_vec()
}

/// An error with all of its sources.
pub(crate) fn shown(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words = format!("{words}: {error}");
        source = error.source();
    }
    words
}
