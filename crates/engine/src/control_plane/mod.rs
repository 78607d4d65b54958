//! Control planes: instances behind somebody's HTTP interface.
//!
//! The problem: no two of these interfaces are alike, all of them serve others too, and each has answers that say nothing about an
//! instance: a login page, a 404 for a mistyped tenant, a 429 for everybody, a proxy's error in HTML. A client that takes any of these for
//! "not running" restarts every instance.
//!
//! The rule is that of every engine: no answer is not death. A *preset*, which is a TOML file, tells what the answers of an interface mean.
//! What the preset does not name is unknown. And an instance is gone only if a status and a word in the body say so together.
//!
//! ```text
//! preset + address + token ──► Api
//!
//!              list, page by page ──► what it leaves in doubt ─┐
//! targets ──►  or, where there is no list: those in doubt ─────┴─► longest unasked first ──► get, 8 at once ──► EngineReport
//!              each request takes its turn: within the rate, and not before a Retry-After
//! ```
//!
//! | subject | module |
//! | --- | --- |
//! | a preset's text, with lines and keys | `document` |
//! | presets, and what is said in them | `preset`, `api`, `template`, `variables` |
//! | requests, certificates | `http`, `tls` |
//! | turns and pauses | `rate`, `unavailable` |
//! | what an answer means | `answer` |
//! | looking | `look`, `list`, `memory` |
//! | acting | `restart`, [`platform`] |
//! | `defib check` | `check` |

mod answer;
mod api;
mod check;
mod document;
pub(crate) mod http;
mod list;
mod look;
mod memory;
pub mod platform;
mod preset;
mod rate;
mod restart;
mod template;
pub(crate) mod tls;
mod unavailable;
mod variables;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use defib_policy::abilities::Abilities;
use defib_policy::id::EngineName;
use defib_policy::moment::Moment;
use defib_policy::sample::{Fault, Observation, Sample};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use url::Url;

use self::api::Api;
pub use self::document::PresetError;
use self::http::Client;
use self::memory::Memory;
use self::preset::{Preset, Purpose};
use self::rate::Pace;
use self::variables::Variables;
use crate::engine::Explanation;
use crate::secret::Secret;
use crate::url::ControlPlaneUrl;
use crate::{
    Clock, Engine, EngineCheck, EngineError, EngineEvent, EngineReport, EngineSettings, EngineUrl, RestartCall, Target,
};

/// The control plane of instances, as an engine.
pub struct ControlPlane {
    settings: EngineSettings,
    clock: Clock,
    line: Line,
    memory: Mutex<Memory>,
}

/// Everything that is needed to talk to a server: its interface, a client, and the rate.
struct Line {
    api: Api,
    client: Client,
    pace: Pace,
    variables: Variables,
    /// The preset's name, or the path of its file.
    preset: String,
    /// How many certificate authorities are trusted.
    roots: usize,
}

impl Line {
    /// Reads the preset that an address names.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the address, the preset, its variables or the certificates.
    fn open(
        url: &ControlPlaneUrl,
        token: Option<&Secret>,
        token_from: String,
        purpose: Purpose,
    ) -> Result<Self, PresetError> {
        let address = url.expose();
        let variables = Variables::read(address, token, token_from)?;
        let parameter = |name: &str| address.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value);
        let named = parameter(variables::PRESET);
        let (preset, base, called) = if address.scheme() == "file" {
            if named.is_some() {
                return Err(PresetError::of_all(
                    "the address",
                    "cp+file:// names the preset's file; `preset` has no meaning",
                ));
            }
            let path = PathBuf::from(address.path());
            (Preset::file(&path)?, None, path.display().to_string())
        } else {
            let name = named.ok_or_else(|| {
                PresetError::of_all("the address", "it names no preset: append ?preset=NAME, or use cp+file:///path")
            })?;
            (Preset::built_in(&name)?, Some(base_of(address)?), name.into_owned())
        };
        let api = preset.read(base.as_deref(), &variables, purpose)?;
        let own_roots = parameter(variables::CA).map(|path| PathBuf::from(&*path));
        let trust = tls::trust(own_roots.as_deref()).map_err(|error| {
            let file =
                own_roots.map_or_else(|| "the system's certificates".to_owned(), |path| path.display().to_string());
            PresetError::of_all("the address", format!("ca: cannot use {file}: {error}"))
        })?;
        let (roots, pace) = (trust.roots, Pace::new(api.rate));
        Ok(Self { client: Client::new(trust), api, pace, variables, preset: called, roots })
    }
}

/// The address without its query.
fn base_of(address: &Url) -> Result<String, PresetError> {
    let mut base = address.clone();
    base.set_query(None);
    preset::check_base(base.as_str()).map_err(|what| PresetError::of_all("the address", what))?;
    Ok(base.into())
}

/// The environment variable that holds an engine's token.
#[must_use]
pub fn token_variable(engine: &EngineName) -> String {
    let capital = |letter: char| match letter {
        '-' | '.' => '_',
        letter => letter.to_ascii_uppercase(),
    };
    format!("DEFIB_ENGINE_TOKEN_{}", engine.as_str().chars().map(capital).collect::<String>())
}

impl ControlPlane {
    /// Describes a control plane. Reads the preset and the files that the address names; does not connect.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the address, the preset, its variables or the certificates.
    pub fn new(settings: EngineSettings, clock: Clock) -> Result<Self, EngineError> {
        let engine = settings.name.clone();
        let EngineUrl::ControlPlane(url) = &settings.url else {
            return Err(EngineError::NoControlPlane { engine });
        };
        let line = Line::open(url, settings.token.as_ref(), token_variable(&engine), Purpose::Engine)
            .map_err(|source| EngineError::Preset { engine, source })?;
        Ok(Self { settings, clock, line, memory: Mutex::default() })
    }

    fn now(&self) -> Moment {
        (self.clock)()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Held for a few assignments only, none of which panics.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name by which the interface knows a target. `None` if there is none, so that the target cannot be asked about.
    fn reference<'t>(&self, target: &'t Target) -> Option<&'t str> {
        let by_workspace = self.line.api.get.as_ref().is_some_and(|get| !get.path.has(template::Gap::Instance));
        let given = target.instance_ref.as_deref().filter(|reference| !reference.is_empty());
        given.or_else(|| (by_workspace && self.line.api.list.is_none()).then(|| target.workspace.as_str()))
    }
}

impl std::fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ControlPlane({} at {})", self.settings.name, self.settings.url)
    }
}

#[async_trait]
impl Engine for ControlPlane {
    fn name(&self) -> &EngineName {
        &self.settings.name
    }

    fn abilities(&self) -> Abilities {
        let Api { list, get, restart, .. } = &self.line.api;
        let fields = [list.as_ref().map(|list| &list.fields), get.as_ref().map(|get| &get.fields)];
        Abilities {
            lists: list.is_some(),
            starts: restart.is_some(),
            kills: restart.as_ref().is_some_and(|restart| !restart.kill_steps.is_empty()),
            recreates: false,
            tells_starts: fields.into_iter().flatten().any(|fields| fields.started_at.is_some()),
        }
    }

    /// If the interface has a list, reads it and asks about the instances that it leaves in doubt, as many as the rate allows in the time. If
    /// it has none, asks about the instances that are in doubt, as many as the rate allows in a share of the time. Either way it begins with
    /// the one that was asked about longest ago. For an instance that was not asked about and is not in doubt, the last look stands if it
    /// was a sign of life; see [`Target::in_doubt`].
    async fn sample_all(&self, targets: &[Target]) -> EngineReport {
        look::Look::begin(self).whole(targets).await
    }

    async fn sample_some(&self, targets: &[Target]) -> EngineReport {
        look::Look::begin(self).few(targets).await
    }

    async fn confirm(&self, target: &Target) -> Sample {
        let report = self.sample_some(std::slice::from_ref(target)).await;
        let unknown = || Sample { at: report.at, observation: Observation::Unknown { fault: Fault::NotAsked } };
        report.samples.first().map_or_else(unknown, |(_, sample)| sample.clone())
    }

    async fn restart(&self, call: &RestartCall) -> Result<(), EngineError> {
        restart::restart(self, call).await
    }

    /// Control planes send no events. The next look sees what has happened.
    async fn watch(&self, _events: mpsc::Sender<EngineEvent>, stop: CancellationToken) {
        stop.cancelled().await;
    }

    async fn check(&self) -> Result<EngineCheck, EngineError> {
        check::reach(self).await
    }

    async fn explain(&self, examples: &[Target]) -> Explanation {
        check::explain(self, examples).await
    }
}
