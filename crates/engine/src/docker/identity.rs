//! Which engine answers, and what its clock says.
//!
//! That a container is missing from an engine proves something only if it is the engine that had the container. dockerd makes an id for itself
//! once and keeps it. podman's service answers a new random id each time it is asked, so that it would seem to be another engine at every
//! look. So podman is known by the directory that holds its containers and by the name of its host, which stay the same as long as the
//! containers do.

use bollard::Docker;
use defib_policy::sample::Fault;
use serde::Deserialize;

use super::deadline::Budget;
use super::{DockerEngine, INFO_AGE_MAX, client, facts};
use crate::report::Call;

/// What an engine says of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Info {
    #[serde(rename = "ID")]
    id: Option<String>,
    /// The name of its host.
    pub(super) name: Option<String>,
    docker_root_dir: Option<String>,
    system_time: Option<String>,
    pub(super) containers: Option<i64>,
    containers_running: Option<i64>,
    containers_paused: Option<i64>,
}

impl Info {
    /// What tells this engine from another one; `None` if it does not say.
    pub(super) fn identity(&self, is_podman: bool) -> Option<String> {
        fn told(text: Option<&String>) -> Option<&String> {
            text.filter(|text| !text.is_empty())
        }
        if is_podman {
            let (directory, host) = (told(self.docker_root_dir.as_ref())?, told(self.name.as_ref())?);
            return Some(format!("podman {directory} {host}"));
        }
        told(self.id.as_ref()).cloned()
    }

    /// How many containers live, paused ones included; `None` if it does not say.
    fn living(&self) -> Option<i64> {
        self.containers_running.zip(self.containers_paused).map(|(running, paused)| running + paused)
    }
}

impl DockerEngine {
    /// Asks the engine for its identity and its clock if what is known of them is old, or from before an outage. If that fails, the look
    /// goes on, and only the identity stays unknown.
    pub(super) async fn refresh_info(&self, client: &Docker, budget: &Budget) {
        let due = self.link().info_asked_at.is_none_or(|at| self.now().since(at) >= INFO_AGE_MAX);
        if due {
            let _ = self.identify(client, budget).await;
        }
    }

    /// Asks the engine which one it is.
    ///
    /// # Errors
    ///
    /// [`Fault::OtherEngine`] when it is not the one that was heard last, [`Fault::EngineError`] when it does not say.
    pub(super) async fn identify(&self, client: &Docker, budget: &Budget) -> Result<(), Fault> {
        let asked_at = self.now();
        self.link().info_asked_at = Some(asked_at);
        let info: Info =
            budget.call(Call::Info, client::read(client, "/info".to_owned())).await.map_err(|error| error.fault())?;

        let is_deaf = self.link().ear.counted(info.living());
        if is_deaf {
            tracing::warn!(
                engine = %self.name(),
                "containers of this engine started or stopped, and its event stream told of nothing; the stream is opened anew",
            );
            self.deaf.notify_waiters();
        }
        let mut link = self.link();
        let identity = info.identity(link.is_podman);
        link.identified = true;
        if let Some(engine_now) = facts::timestamp(info.system_time.as_deref()) {
            // An engine reads its clock before it counts its containers, so the reading is from near the beginning of the call.
            link.engine_now = Some((asked_at, engine_now));
        }
        let heard = std::mem::replace(&mut link.identity, identity.clone());
        match (heard, identity) {
            (_, None) => Err(Fault::EngineError),
            (Some(heard), Some(now)) if heard != now => Err(Fault::OtherEngine),
            (_, Some(_)) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn podman_is_known_by_its_directory_and_dockerd_by_its_id() {
        let info = |text: &str| serde_json::from_str::<Info>(text).unwrap();
        let first =
            info(r#"{"ID":"1","Name":"rack-7","DockerRootDir":"/var/lib/containers/storage","CgroupDriver":7}"#);
        let second = info(r#"{"ID":"2","Name":"rack-7","DockerRootDir":"/var/lib/containers/storage"}"#);
        assert_eq!(first.identity(true), second.identity(true));
        assert_ne!(first.identity(false), second.identity(false));
        let elsewhere = info(r#"{"ID":"2","Name":"rack-8","DockerRootDir":"/var/lib/containers/storage"}"#);
        assert_ne!(second.identity(true), elsewhere.identity(true));
        for silent in ["{}", r#"{"ID":"","Name":"","DockerRootDir":""}"#, r#"{"ID":null,"Name":"rack-7"}"#] {
            assert_eq!((info(silent).identity(true), info(silent).identity(false)), (None, None), "{silent}");
        }
    }
}
