//! The record of one container, as an inspect answers it: the fields that defib uses.
//!
//! The client library decodes all of a record into closed sets of words, and refuses the whole record for one word that it does not know, be
//! it the type of a mount. Here the other fields are passed over, and a word that is not known stands for itself ([`Status::Other`]).

use serde::Deserialize;

/// What an engine says of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Record {
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) state: Option<State>,
    /// How many times the engine has started it by itself.
    pub(crate) restart_count: Option<i64>,
    pub(crate) host_config: Option<HostConfig>,
    pub(crate) config: Option<Config>,
}

/// What it is doing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct State {
    pub(crate) status: Option<Status>,
    pub(crate) running: Option<bool>,
    pub(crate) paused: Option<bool>,
    pub(crate) restarting: Option<bool>,
    #[serde(rename = "OOMKilled")]
    pub(crate) oom_killed: Option<bool>,
    pub(crate) exit_code: Option<i64>,
    pub(crate) started_at: Option<String>,
    pub(crate) finished_at: Option<String>,
    pub(crate) health: Option<Health>,
}

/// The word for its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub(crate) enum Status {
    /// There is none.
    Empty,
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
    /// podman's word for a container that has ended and was not cleaned up yet: its mounts and its network are still there. The clean-up
    /// takes some ten milliseconds, and never comes if the process that looks after the container was killed. The record already says how
    /// the container ended, and podman can start a container in this state.
    Stopped,
    /// Any other, such as podman's `stopping` for what runs and has been told to stop.
    Other,
}

impl From<String> for Status {
    fn from(word: String) -> Self {
        match word.as_str() {
            "" => Self::Empty,
            "created" => Self::Created,
            "running" => Self::Running,
            "paused" => Self::Paused,
            "restarting" => Self::Restarting,
            "removing" => Self::Removing,
            "exited" => Self::Exited,
            "dead" => Self::Dead,
            "stopped" => Self::Stopped,
            _ => Self::Other,
        }
    }
}

/// What its health check says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Health {
    pub(crate) status: Option<String>,
    pub(crate) log: Option<Vec<HealthCheck>>,
}

/// One run of a health check.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HealthCheck {
    pub(crate) end: Option<String>,
}

/// How the engine treats it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HostConfig {
    pub(crate) restart_policy: Option<RestartPolicy>,
}

/// When the engine starts it by itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RestartPolicy {
    pub(crate) name: Option<String>,
    pub(crate) maximum_retry_count: Option<i64>,
}

/// How it was made.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Config {
    pub(crate) healthcheck: Option<HealthcheckConfig>,
}

/// How its health is checked: times in nanoseconds, 0 for the engine's default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HealthcheckConfig {
    pub(crate) interval: Option<i64>,
    pub(crate) timeout: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_whatever_else_is_in_it() {
        let record: Record = serde_json::from_str(
            r#"{"Id":"c1","Name":"/w1","Image":7,"Mounts":[{"Type":"hologram"}],"RestartCount":2,
                "State":{"Status":"stopped","Running":false,"OOMKilled":true,"ExitCode":137,"Health":{"Status":"","Log":null}},
                "HostConfig":{"CgroupnsMode":"somewhere","RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3}},
                "Config":{"Healthcheck":null}}"#,
        )
        .unwrap();
        let state = record.state.unwrap();
        assert_eq!((state.status, state.exit_code, state.oom_killed), (Some(Status::Stopped), Some(137), Some(true)));
        assert_eq!((record.id.as_deref(), record.name.as_deref()), (Some("c1"), Some("/w1")));
        let policy = record.host_config.unwrap().restart_policy.unwrap();
        assert_eq!((policy.name.as_deref(), policy.maximum_retry_count), (Some("on-failure"), Some(3)));
        assert_eq!(record.restart_count, Some(2));
        assert!(record.config.unwrap().healthcheck.is_none());
    }

    #[test]
    fn a_word_that_is_not_known_stands_for_itself() {
        for (word, status) in
            [("running", Status::Running), ("", Status::Empty), ("stopping", Status::Other), ("Running", Status::Other)]
        {
            let state: State = serde_json::from_str(&format!(r#"{{"Status":"{word}"}}"#)).unwrap();
            assert_eq!(state.status, Some(status), "{word}");
        }
        assert_eq!(serde_json::from_str::<State>(r#"{"Status":null}"#).unwrap().status, None);
        assert!(serde_json::from_str::<State>(r#"{"Status":7}"#).is_err(), "this is not a word");
    }
}
