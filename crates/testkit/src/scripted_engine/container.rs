//! What a scripted container is, and the words in which Docker tells it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

/// The image that every scripted container claims to be of.
const IMAGE: &str = "scripted:latest";

/// The zero time of Go, which Docker writes for "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

/// A container as the engine sees it. Built with [`running`](Self::running) or [`exited`](Self::exited), then changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptedContainer {
    /// Any text; Docker's are 64 hexadecimal digits. A prefix does not find it.
    pub id: String,
    /// Without the slash that Docker writes in front. The first one finds the container, like the id.
    pub names: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it is doing.
    pub state: ContainerState,
    /// What its health check says.
    pub health: Health,
    /// When the last health check ended, and how far apart the checks are. `None`: the engine tells nothing of them.
    pub health_check: Option<(SystemTime, Duration)>,
    /// When it was made; the list is sorted by it, newest first.
    pub created_at: SystemTime,
    /// When it was last started. `None`: never.
    pub started_at: Option<SystemTime>,
    /// When it last ended. `None`: never.
    pub finished_at: Option<SystemTime>,
    /// Its main process, 0 when there is none. No such process exists on this machine.
    pub pid: u32,
    /// What it has written so far.
    pub log: Vec<u8>,
}

/// The states of Docker, and whatever else an engine may say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Its main process runs.
    Running,
    /// Frozen by an operator.
    Paused,
    /// Between two starts of the engine's own restart policy.
    Restarting,
    /// Being removed.
    Removing,
    /// Its main process ended.
    Exited {
        /// 137 for SIGKILL.
        exit_code: i64,
        /// Whether the kernel killed it for its memory.
        oom: bool,
    },
    /// Could not be removed.
    Dead,
    /// A word that the client may not know (podman's `stopped`).
    Other(String),
}

/// The verdict of the container's own health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// There is no health check.
    None,
    /// Not decided yet.
    Starting,
    /// The last check passed.
    Healthy,
    /// Enough checks in a row failed.
    Unhealthy,
}

impl ScriptedContainer {
    /// Running since now, named like its id.
    #[must_use]
    pub fn running(id: impl Into<String>) -> Self {
        let (id, now) = (id.into(), SystemTime::now());
        Self {
            names: vec![id.clone()],
            id,
            labels: BTreeMap::new(),
            state: ContainerState::Running,
            health: Health::None,
            health_check: None,
            created_at: now,
            started_at: Some(now),
            finished_at: None,
            pid: 4000,
            log: Vec::new(),
        }
    }

    /// Started and ended just now.
    #[must_use]
    pub fn exited(id: impl Into<String>, exit_code: i64) -> Self {
        Self {
            state: ContainerState::Exited { exit_code, oom: false },
            finished_at: Some(SystemTime::now()),
            pid: 0,
            ..Self::running(id)
        }
    }

    /// Has written this.
    #[must_use]
    pub fn log(mut self, log: impl Into<Vec<u8>>) -> Self {
        self.log = log.into();
        self
    }

    /// The last lines of its log as Docker sends them: frames of at most 16 KiB, each with the number of its stream and its length.
    pub(super) fn log_frames(&self, lines: usize) -> Vec<u8> {
        let whole = self.log.strip_suffix(b"\n").unwrap_or(&self.log);
        let ends = whole.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        let begin = ends.map(|(at, _)| at + 1).nth(lines.saturating_sub(1)).unwrap_or_default();
        let mut frames = Vec::new();
        for piece in self.log[begin..].split_inclusive(|byte| *byte == b'\n').flat_map(|line| line.chunks(16 * 1024)) {
            frames.extend([1, 0, 0, 0]);
            frames.extend(u32::try_from(piece.len()).unwrap_or_default().to_be_bytes());
            frames.extend(piece);
        }
        frames
    }

    /// Replaces the name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.names = vec![name.into()];
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Sets the health.
    #[must_use]
    pub fn health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// Sets when its last health check ended, and how far apart the checks are.
    #[must_use]
    pub fn health_check(mut self, ended_at: SystemTime, interval: Duration) -> Self {
        self.health_check = Some((ended_at, interval));
        self
    }

    /// Sets the time of the last start, for one that has run for a while.
    #[must_use]
    pub fn started_at(mut self, at: SystemTime) -> Self {
        self.created_at = self.created_at.min(at);
        self.started_at = Some(at);
        self
    }

    pub(super) fn has_process(&self) -> bool {
        matches!(self.state, ContainerState::Running | ContainerState::Paused)
    }

    /// The same container, as an engine that is wrong would show it.
    pub(super) fn falsely_stopped(&self, now: SystemTime) -> Self {
        Self {
            state: ContainerState::Exited { exit_code: 137, oom: false },
            finished_at: Some(now),
            pid: 0,
            ..self.clone()
        }
    }

    /// An element of `GET /containers/json`.
    pub(super) fn summary(&self) -> Value {
        json!({
            "Id": self.id,
            "Names": self.names.iter().map(|name| format!("/{name}")).collect::<Vec<_>>(),
            "Image": IMAGE,
            "ImageID": "sha256:5c71",
            "Command": "/agent",
            "Created": seconds(self.created_at),
            "Ports": [],
            "Labels": self.labels,
            "State": self.state.word(),
            "Status": self.status_line(),
            "HostConfig": { "NetworkMode": "none" },
            "NetworkSettings": { "Networks": {} },
            "Mounts": [],
        })
    }

    /// The answer to `GET /containers/{id}/json`.
    pub(super) fn details(&self) -> Value {
        let (exit_code, oom) = match self.state {
            ContainerState::Exited { exit_code, oom } => (exit_code, oom),
            _ => (0, false),
        };
        let mut state = json!({
            "Status": self.state.word(),
            "Running": self.has_process() || self.state == ContainerState::Restarting,
            "Paused": self.state == ContainerState::Paused,
            "Restarting": self.state == ContainerState::Restarting,
            "OOMKilled": oom,
            "Dead": self.state == ContainerState::Dead,
            "Pid": self.pid,
            "ExitCode": exit_code,
            "Error": "",
            "StartedAt": time(self.started_at),
            "FinishedAt": time(self.finished_at),
        });
        if let Some(word) = self.health.word() {
            let failing_streak = if self.health == Health::Unhealthy { 3 } else { 0 };
            let exit_code = i32::from(self.health == Health::Unhealthy);
            let checks: Vec<Value> = self
                .health_check
                .iter()
                .map(|(ended_at, _)| {
                    let ended_at = time(Some(*ended_at));
                    json!({ "Start": ended_at, "End": ended_at, "ExitCode": exit_code, "Output": "" })
                })
                .collect();
            state["Health"] = json!({ "Status": word, "FailingStreak": failing_streak, "Log": checks });
        }
        let mut config = json!({ "Hostname": "", "Image": IMAGE, "Labels": self.labels, "Env": [], "Cmd": ["/agent"] });
        if let Some((_, interval)) = self.health_check {
            let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
            config["Healthcheck"] = json!({ "Test": ["CMD", "/healthy"], "Interval": nanos, "Timeout": nanos });
        }
        json!({
            "Id": self.id,
            "Created": time(Some(self.created_at)),
            "Path": "/agent",
            "Args": [],
            "State": state,
            "Image": "sha256:5c71",
            "Name": format!("/{}", self.names.first().map_or("", String::as_str)),
            "RestartCount": 0,
            "Driver": "overlay2",
            "Platform": "linux",
            "HostConfig": { "NetworkMode": "none", "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 } },
            "Config": config,
            "NetworkSettings": { "Networks": {} },
            "Mounts": [],
        })
    }

    /// The attributes of an event's actor: the labels, the image, the name.
    pub(super) fn attributes(&self) -> BTreeMap<String, String> {
        let mut attributes = self.labels.clone();
        attributes.insert("image".into(), IMAGE.into());
        attributes.insert("name".into(), self.names.first().cloned().unwrap_or_default());
        attributes
    }

    /// The text for people, in which Docker hides the exit code and the health of a list's entry.
    fn status_line(&self) -> String {
        match &self.state {
            ContainerState::Created => "Created".into(),
            ContainerState::Running => match self.health {
                Health::None => "Up 2 minutes".into(),
                Health::Starting => "Up 2 minutes (health: starting)".into(),
                Health::Healthy => "Up 2 minutes (healthy)".into(),
                Health::Unhealthy => "Up 2 minutes (unhealthy)".into(),
            },
            ContainerState::Paused => "Up 2 minutes (Paused)".into(),
            ContainerState::Restarting => "Restarting (1) 2 seconds ago".into(),
            ContainerState::Removing => "Removal In Progress".into(),
            ContainerState::Exited { exit_code, .. } => format!("Exited ({exit_code}) 2 seconds ago"),
            ContainerState::Dead => "Dead".into(),
            ContainerState::Other(word) => word.clone(),
        }
    }
}

impl ContainerState {
    pub(super) fn word(&self) -> &str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited { .. } => "exited",
            Self::Dead => "dead",
            Self::Other(word) => word,
        }
    }
}

impl Health {
    /// `None` where Docker leaves the health out.
    pub(super) fn word(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Starting => Some("starting"),
            Self::Healthy => Some("healthy"),
            Self::Unhealthy => Some("unhealthy"),
        }
    }
}

/// RFC 3339 with nanoseconds, as Docker writes times.
pub(super) fn time(at: Option<SystemTime>) -> String {
    at.map_or_else(|| NEVER.into(), |at| humantime::format_rfc3339_nanos(at).to_string())
}

pub(super) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
