//! The platform's database: a private Postgres, with a login of its own for each of the parties, as in production.

use anyhow::{Context as _, Result};
use defib_testkit::PrivatePostgres;
use defib_testkit::postgres::connect;
use tokio_postgres::Client;

use crate::cast::Role;
use crate::defib::CONTROL_PLANE;

/// What each login may do comes from the roles that `defib migrate` makes.
const LOGINS: &str = "
    create role defib login in role defib_daemon;
    create role proxy login in role defib_reporter;
    create role viewer login in role defib_viewer;
    create role platform login;
    grant usage on schema defib to platform;
    grant select, insert, update on defib.workspaces to platform";

/// The parties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    /// Owns everything, and migrates.
    Owner,
    /// `defib run`.
    Daemon,
    /// May report suspicions, and nothing else.
    Proxy,
    /// Writes heartbeats and statuses.
    Platform,
    /// Looks.
    Viewer,
}

impl Login {
    const fn name(self) -> &'static str {
        match self {
            Self::Owner => "postgres",
            Self::Daemon => "defib",
            Self::Proxy => "proxy",
            Self::Platform => "platform",
            Self::Viewer => "viewer",
        }
    }
}

/// The database `demo` on a server of our own.
#[derive(Debug)]
pub(crate) struct Database {
    server: PrivatePostgres,
}

impl Database {
    /// An empty database.
    pub(crate) async fn start() -> Result<Self> {
        let server = PrivatePostgres::start().await.context("start a private Postgres")?;
        let client = connect(&server.url("postgres")).await?;
        client.batch_execute("create database demo").await.context("create database demo")?;
        Ok(Self { server })
    }

    pub(crate) fn port(&self) -> u16 {
        self.server.port()
    }

    pub(crate) fn url(&self, login: Login) -> String {
        format!("postgres://{}@127.0.0.1:{}/demo", login.name(), self.server.port())
    }

    pub(crate) async fn connect(&self, login: Login) -> Result<Client> {
        connect(&self.url(login)).await
    }

    /// Makes the logins, once the schema is there.
    pub(crate) async fn create_logins(&self) -> Result<()> {
        let owner = self.connect(Login::Owner).await?;
        owner.batch_execute(LOGINS).await.context("create the logins of the parties")
    }

    /// Enters the workspaces into the fleet table.
    pub(crate) async fn enter(&self, roles: &[Role], container_name: impl Fn(&str) -> String) -> Result<()> {
        let platform = self.connect(Login::Platform).await?;
        for role in roles {
            let (container, kind, engine) = match &role.instance {
                None => (Some(container_name(role.id)), "container", "default"),
                Some(_) => (None, "instance", CONTROL_PLANE),
            };
            platform
                .execute(
                    "insert into defib.workspaces (id, name, kind, engine, container_ref, instance_ref) values ($1, $2, $3, $4, $5, $6)",
                    &[&role.id, &role.name, &kind, &engine, &container, &role.instance],
                )
                .await
                .with_context(|| format!("enter workspace {}", role.id))?;
        }
        Ok(())
    }
}
