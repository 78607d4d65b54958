//! Docker and its kin (podman): how to reach one, and which one it is.
//!
//! A [`DockerEngine`] is made without connecting, and every use of it connects when that is due. The client library opens a connection for each call, so there is no broken
//! connection to mend; what has to be renewed after an outage is what we believe of whoever answers:
//!
//! - the version of the interface, agreed upon again (the other end may be an older one now);
//! - its identity, asked for again (another engine knows none of our containers, and would make them all look missing);
//! - its clock.
//!
//! The race: no look notices an engine that restarts between two looks. But its event stream breaks at once, so the listener (`watch`)
//! notes the outage here as well.
//!
//! | subject | module |
//! | --- | --- |
//! | the client library, and the version of the interface | `client` |
//! | which engine answers | `identity` |
//! | looking | `look` |
//! | asking for a list, and reading it entry by entry | `list`, `entry` |
//! | asking only for those that do not run, and what the last full list showed | `quick`, `roster` |
//! | whose container is whose | `listing` |
//! | a container's record, and what it says | `record`, `facts` |
//! | listening, and whether anything may have been missed | `watch`, `ear` |
//! | acting | `restart` |
//! | the end of a container's log | `last_lines` |
//! | what went wrong, how long a look may take, and whose inspects hang | `fault`, `deadline`, `hung` |

mod client;
mod deadline;
mod ear;
mod entry;
mod facts;
mod fault;
mod hung;
mod identity;
mod last_lines;
mod list;
mod listing;
mod look;
mod quick;
mod record;
mod restart;
mod roster;
mod watch;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bollard::errors::Error as BollardError;
use bollard::{API_DEFAULT_VERSION, Docker};
use defib_policy::abilities::Abilities;
use defib_policy::id::{ContainerId, EngineName};
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::sample::{Fault, Sample};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use self::client::Agreed;
use self::deadline::{Budget, CallError};
use self::ear::Ear;
use self::fault::fault_of;
use self::hung::Hung;
use self::identity::Info;
use self::list::Listed;
use crate::report::{Call, EngineReport, Reached};
use crate::settings::{EngineSettings, TlsPaths};
use crate::url::EngineUrl;
use crate::{Clock, Engine, EngineCheck, EngineError, EngineEvent, LastLines, RestartCall, Target};

/// How old the engine's clock and identity may be. Larger: a step of its clock is noticed later. Smaller: more calls of
/// `/info`, which counts images and containers at each.
const INFO_AGE_MAX: Duration = Duration::from_secs(60);

/// An engine that containers run on, reached through Docker's interface.
pub struct DockerEngine {
    settings: EngineSettings,
    clock: Clock,
    link: Mutex<Link>,
    /// Tells the event stream that a look failed, so that its stream may be a dead one that never ends.
    suspected: Notify,
    /// Tells the event stream that it has gone deaf.
    deaf: Notify,
}

/// What is believed of the other end.
#[derive(Default)]
struct Link {
    /// For which the version of the interface is agreed upon. `None` until the first use, and after every failure.
    client: Option<Docker>,
    is_podman: bool,
    /// The engine was away since the last report that said so.
    outage: bool,
    /// Why the engine was not reached by the last look that could tell. `None`: that look reached it, or there was none yet.
    down: Option<Fault>,
    /// The identity as last heard, also from before an outage: the engine that answers afterwards is compared with it.
    identity: Option<String>,
    engine_now: Option<(Moment, Timestamp)>,
    /// Whether the identity above is that of the engine that answers now.
    identified: bool,
    /// When `/info` was last asked for, in vain or not: an engine on which it hangs must not delay every look. `None`: it
    /// is due.
    info_asked_at: Option<Moment>,
    /// What has been heard over the event stream.
    ear: Ear,
    /// The containers whose last inspect got no answer in time.
    hung: Hung,
}

impl std::fmt::Debug for DockerEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DockerEngine({} at {})", self.name(), self.settings.url)
    }
}

#[async_trait]
impl Engine for DockerEngine {
    fn name(&self) -> &EngineName {
        Self::name(self)
    }

    fn abilities(&self) -> Abilities {
        Abilities::CONTAINER_ENGINE
    }

    async fn sample_all(&self, targets: &[Target]) -> EngineReport {
        Self::sample_all(self, targets).await
    }

    async fn sample_restless(&self, targets: &[Target]) -> Option<EngineReport> {
        Self::sample_restless(self, targets).await
    }

    async fn sample_some(&self, targets: &[Target]) -> EngineReport {
        Self::sample_some(self, targets).await
    }

    async fn confirm(&self, target: &Target) -> Sample {
        Self::confirm(self, target).await
    }

    async fn restart(&self, call: &RestartCall) -> Result<(), EngineError> {
        Self::restart(self, call).await
    }

    async fn last_lines(
        &self,
        container: &ContainerId,
        lines: u32,
        most: usize,
    ) -> Result<Option<LastLines>, EngineError> {
        Self::last_lines(self, container, lines, most).await.map(Some)
    }

    async fn watch(&self, events: mpsc::Sender<EngineEvent>, stop: CancellationToken) {
        Self::watch(self, events, stop).await;
    }

    async fn check(&self) -> Result<EngineCheck, EngineError> {
        Self::check(self).await
    }
}

impl DockerEngine {
    /// Describes an engine. Does not connect: it may not be there yet.
    ///
    /// # Errors
    ///
    /// Only for what can never work: the address of a control plane, `https://` without certificates, unreadable certificates.
    pub fn new(settings: EngineSettings, clock: Clock) -> Result<Self, EngineError> {
        let engine = settings.name.clone();
        match (&settings.url, &settings.tls) {
            (EngineUrl::ControlPlane(_), _) => return Err(EngineError::ControlPlane { engine }),
            (EngineUrl::Https(_), None) => return Err(EngineError::CertificatesMissing { engine }),
            (EngineUrl::Https(_) | EngineUrl::Tcp(_), Some(tls)) => {
                // The client library asks for the process's default, which is not set yet in a test or a small tool.
                let _ = rustls::crypto::ring::default_provider().install_default();
                check_certificates(&engine, tls)?;
                client::connect(&settings, API_DEFAULT_VERSION).map_err(|source| connect_error(engine, source))?;
            }
            (EngineUrl::Unix(_) | EngineUrl::Http(_) | EngineUrl::Tcp(_), _) => {}
        }
        let link = Mutex::new(Link::default());
        Ok(Self { settings, clock, link, suspected: Notify::new(), deaf: Notify::new() })
    }

    fn name(&self) -> &EngineName {
        &self.settings.name
    }

    async fn check(&self) -> Result<EngineCheck, EngineError> {
        let budget = self.budget();
        let client = self.hello(&budget).await.map_err(|error| self.error(Call::Version, error))?;
        let version = budget.call(Call::Version, client.version()).await;
        let version = version.map_err(|error| self.error(Call::Version, error))?;
        let info = budget.call(Call::Info, client::read::<Info>(&client, "/info".to_owned())).await;
        let info = info.map_err(|error| self.error(Call::Info, error))?;
        let is_podman = self.link().is_podman;
        Ok(EngineCheck::Containers {
            id: info.identity(is_podman).unwrap_or_default(),
            name: info.name.unwrap_or_default(),
            version: version.version.unwrap_or_default(),
            api_version: version.api_version.unwrap_or_default(),
            containers: info.containers.unwrap_or_default(),
            labelled: self.labelled(&client, &budget).await,
        })
    }

    /// Whose containers carry the workspace label.
    async fn labelled(&self, client: &Docker, budget: &Budget) -> Option<Vec<(String, String)>> {
        let filters = serde_json::json!({ "label": [self.settings.workspace_label] }).to_string();
        let listed = self.list(client, Call::List, Some(&filters), budget).await.ok()?;
        let mut labelled: Vec<(String, String)> = listed
            .entries
            .into_iter()
            .filter_map(|entry| {
                let name = entry.names.into_iter().next().unwrap_or(entry.id);
                Some((entry.workspace?.into(), name.into()))
            })
            .collect();
        labelled.sort_unstable();
        Some(labelled)
    }

    /// Lists the containers that these filters let through, stopped ones included.
    async fn list(
        &self,
        client: &Docker,
        call: Call,
        filters: Option<&str>,
        budget: &Budget,
    ) -> Result<Listed, CallError> {
        let Self { settings, .. } = self;
        budget.call(call, list::list(client, filters, &settings.workspace_label, settings.call_timeout)).await
    }

    fn now(&self) -> Moment {
        (self.clock)()
    }

    /// The time for one look: twice that of a call.
    fn budget(&self) -> Budget {
        let call_timeout = self.settings.call_timeout;
        Budget::new(call_timeout, call_timeout * 2)
    }

    /// A client for which the version is agreed upon. Connects when that is due.
    async fn hello(&self, budget: &Budget) -> Result<Docker, CallError> {
        {
            let link = self.link();
            if let Some(client) = &link.client {
                return Ok(client.clone());
            }
        }
        let Agreed { client, is_podman } = budget.call(Call::Version, client::agree(&self.settings)).await?;
        let mut link = self.link();
        if let Some(theirs) = &link.client {
            // Another look was here first, and may have heard the engine's identity already. That must not be forgotten.
            return Ok(theirs.clone());
        }
        link.client = Some(client.clone());
        link.is_podman = is_podman;
        link.identified = false;
        link.info_asked_at = None;
        Ok(client)
    }

    /// Ends a look at the engine that reached it, and takes what it has to report.
    fn note_reached(&self) -> Reached {
        let mut link = self.link();
        link.down = None;
        Reached {
            identity: link.identity.clone().filter(|_| link.identified),
            engine_now: link.engine_now,
            reconnected: std::mem::take(&mut link.outage),
            spoiled: false,
        }
    }

    /// Ends a look in which no call was answered, though the failure of none of them speaks for the whole engine: an inspect that
    /// hangs may be the trouble of one container. The engine is taken to be what the look before found it to be.
    ///
    /// # Errors
    ///
    /// The fault of an earlier look that did not reach the engine, if none has reached it since.
    fn note_silence(&self) -> Result<Reached, Fault> {
        let link = self.link();
        match link.down {
            Some(fault) => Err(fault),
            None => Ok(Reached {
                identity: link.identity.clone().filter(|_| link.identified),
                engine_now: link.engine_now,
                reconnected: false,
                spoiled: false,
            }),
        }
    }

    /// Takes note of why the engine as such could not be reached.
    fn note_down(&self, fault: Fault) {
        self.link().down = Some(fault);
    }

    /// Ends a look at the engine that did not reach it.
    fn note_outage(&self) {
        {
            let mut link = self.link();
            link.outage = true;
            link.client = None;
            link.identified = false;
            link.ear.forget();
        }
        self.suspected.notify_waiters();
    }

    /// The engine's clock as last heard.
    fn engine_now(&self) -> Option<Timestamp> {
        self.link().engine_now.map(|(_, engine_now)| engine_now)
    }

    /// Resolves when a look fails.
    fn suspected(&self) -> tokio::sync::futures::Notified<'_> {
        self.suspected.notified()
    }

    /// Resolves when the event stream turns out to be deaf.
    fn deaf(&self) -> tokio::sync::futures::Notified<'_> {
        self.deaf.notified()
    }

    /// The error of a call outside of sampling, where nobody turns it into a sample.
    fn error(&self, call: Call, error: CallError) -> EngineError {
        let engine = self.name().clone();
        match error {
            CallError::TimedOut(after) => EngineError::TimedOut { engine, call, after },
            CallError::NotAsked => EngineError::TimedOut { engine, call, after: Duration::ZERO },
            CallError::Engine(source) if call == Call::Version && fault_of(&source) == Fault::Unreachable => {
                connect_error(engine, source)
            }
            CallError::Engine(source) => {
                EngineError::Call { engine, call, fault: fault_of(&source), source: Box::new(source) }
            }
        }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        // Held for a few assignments only, none of which panics.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect_error(engine: EngineName, source: BollardError) -> EngineError {
    EngineError::Connect { engine, fault: fault_of(&source), source: Box::new(source) }
}

/// The client library reads our certificate at each handshake, and goes on without one when it cannot. So it is read once at the start,
/// where an error can be told.
fn check_certificates(engine: &EngineName, tls: &TlsPaths) -> Result<(), EngineError> {
    let error =
        |path: &Path, source| EngineError::Certificate { engine: engine.clone(), path: path.to_owned(), source };
    for path in [&tls.ca, &tls.cert] {
        CertificateDer::from_pem_file(path).map_err(|source| error(path, source))?;
    }
    PrivateKeyDer::from_pem_file(&tls.key).map_err(|source| error(&tls.key, source))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn settings(url: &str, tls: Option<TlsPaths>) -> EngineSettings {
        EngineSettings {
            name: "rack-7".into(),
            url: url.parse().unwrap(),
            workspace_label: "defib.workspace".into(),
            call_timeout: Duration::from_secs(5),
            full_list_every: Duration::ZERO,
            tls,
            token: None,
        }
    }

    fn refusal(settings: EngineSettings) -> String {
        DockerEngine::new(settings, Arc::new(|| Moment::ZERO)).expect_err("refused").to_string()
    }

    #[test]
    fn an_engine_that_is_not_there_yet_is_no_error() {
        for url in ["unix:///nowhere/docker.sock", "tcp://nowhere.invalid:2375", "http://nowhere.invalid"] {
            DockerEngine::new(settings(url, None), Arc::new(|| Moment::ZERO)).expect(url);
        }
    }

    #[test]
    fn what_can_never_work_is_refused_by_name() {
        assert!(
            refusal(settings("cp+https://user:s3cret@cp.example", None))
                .contains("rack-7: this is the address of a control plane")
        );
        assert!(refusal(settings("https://engine:2376", None)).contains("DOCKER_CERT_PATH"));
        let tls = TlsPaths::in_directory(Path::new("/nowhere"));
        assert!(refusal(settings("https://engine:2376", Some(tls.clone()))).contains("/nowhere/ca.pem"));
        assert!(refusal(settings("tcp://engine:2376", Some(tls))).contains("/nowhere/ca.pem"));
    }

    #[test]
    fn an_engine_shows_where_it_is() {
        let engine = DockerEngine::new(settings("unix:///run/d.sock", None), Arc::new(|| Moment::ZERO)).unwrap();
        assert_eq!(format!("{engine:?}"), "DockerEngine(rack-7 at unix:///run/d.sock)");
    }
}
