//! Converts the texts of the knobs to types, and collects the faults. Each fault names the variable, or the flag if one was given, and says
//! what is allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use defib_engine::EngineUrl;
use defib_policy::id::EngineName;

use super::knobs::{KNOBS, Kind, Knob, bytes, short};
use super::{Evict, RawKnobs, Secret};
use crate::cache::{Address, Pattern};
use crate::hosts::Hosts;
use crate::webhook::settings::{Given, Webhook};

/// The beginning of the variable with the token of a control plane. The name of its engine follows.
const ENGINE_TOKEN: &str = "DEFIB_ENGINE_TOKEN_";

/// Reads knobs one by one and remembers what is wrong. For a bad knob it returns some value, which is never used.
pub(super) struct Reader<'a> {
    raw: &'a RawKnobs,
    environment: &'a [(OsString, OsString)],
    faults: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(raw: &'a RawKnobs, environment: &'a [(OsString, OsString)]) -> Self {
        Self { raw, environment, faults: Vec::new() }
    }

    pub(super) fn into_faults(self) -> Vec<String> {
        self.faults
    }

    pub(super) fn refuse_unknown_variables(&mut self) {
        let known: BTreeSet<String> = KNOBS
            .iter()
            .flat_map(|knob| {
                let file = matches!(knob.kind, Kind::Secret).then(|| format!("{}_FILE", knob.variable()));
                std::iter::once(knob.variable()).chain(file)
            })
            .collect();
        let in_kubernetes = self.variable("KUBERNETES_SERVICE_HOST").is_some();
        for (name, value) in self.environment {
            let name = name.to_string_lossy();
            // Tokens of control planes are checked against the engines, by `engine_tokens`.
            if !name.starts_with("DEFIB_")
                || name.starts_with(ENGINE_TOKEN)
                || known.contains(name.as_ref())
                || (in_kubernetes && is_service_link(&name, &value.to_string_lossy()))
            {
                continue;
            }
            let nearest = known.iter().min_by_key(|candidate| strsim::levenshtein(candidate, &name));
            let hint = nearest.filter(|candidate| strsim::levenshtein(candidate, &name) <= 3).map_or_else(
                || "see `defib run --help` for those there are".to_owned(),
                |near| format!("did you mean {near}?"),
            );
            self.faults.push(format!("{} is not a variable of defib: {hint}", name.escape_debug()));
        }
    }

    fn variable(&self, name: &str) -> Option<&'a OsString> {
        self.environment.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value)
    }

    /// The text given for a knob, or its default, and what to call it in a fault.
    fn given(&mut self, name: &str) -> (Option<String>, String, &'static Knob) {
        // Every name that is passed here is a literal of this crate, and the test `every_knob_is_read` goes through all of them.
        let knob = KNOBS.iter().find(|knob| knob.name == name).unwrap_or(&KNOBS[0]);
        let Some(given) = self.raw.0.get(knob.name) else {
            return (knob.default.map(str::to_owned), knob.variable(), knob);
        };
        let called = if given.by_flag { format!("--{}", knob.flag()) } else { knob.variable() };
        if let Some(text) = given.value.to_str() {
            (Some(text.trim().to_owned()), called, knob)
        } else {
            self.faults.push(format!("{called} is not valid UTF-8"));
            (None, called, knob)
        }
    }

    /// Whether a knob was given at all.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.raw.0.contains_key(name)
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.given(name).0.filter(|text| !text.is_empty())
    }

    /// The database URL, which everything needs. It makes one fault at most: what is wrong with it, or that it is missing.
    pub(super) fn database_url(&mut self) -> Option<Secret> {
        let faults = self.faults.len();
        let url = self.secret("DATABASE_URL");
        if url.is_none() && self.faults.len() == faults {
            let missing =
                "DEFIB_DATABASE_URL is not set: give it (or DEFIB_DATABASE_URL_FILE) a Postgres connection string";
            self.faults.push(missing.to_owned());
        }
        url
    }

    /// The token of each control plane that has one: `DEFIB_ENGINE_TOKEN_<ENGINE>`, or the file that `…_FILE` names.
    pub(super) fn engine_tokens(&mut self, engines: &[(EngineName, EngineUrl)]) -> BTreeMap<EngineName, Secret> {
        let mut tokens = BTreeMap::new();
        let mut known = BTreeSet::new();
        for (engine, _) in engines.iter().filter(|(_, url)| matches!(url, EngineUrl::ControlPlane(_))) {
            let variable = defib_engine::control_plane::token_variable(engine);
            let file_variable = format!("{variable}_FILE");
            if !known.insert(variable.clone()) {
                self.faults.push(format!("two control planes would have their token in {variable}: rename one"));
            }
            let value = self.variable(&variable).map(|value| value.to_string_lossy().into_owned());
            let token = match self.variable(&file_variable) {
                Some(_) if value.is_some() => {
                    self.faults.push(format!("{variable} and {file_variable} are both set: keep one"));
                    None
                }
                Some(path) => self.secret_file(&file_variable, path),
                None => value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty()).map(Secret),
            };
            known.insert(file_variable);
            tokens.extend(token.map(|token| (engine.clone(), token)));
        }
        for (name, _) in self.environment {
            let name = name.to_string_lossy();
            if name.starts_with(ENGINE_TOKEN) && !known.contains(name.as_ref()) {
                let what = "belongs to no control plane in DEFIB_ENGINES";
                self.faults.push(format!("{} {what}", name.escape_debug()));
            }
        }
        tokens
    }

    pub(super) fn secret(&mut self, name: &str) -> Option<Secret> {
        let (value, called, knob) = self.given(name);
        let file_variable = format!("{}_FILE", knob.variable());
        let Some(path) = self.variable(&file_variable) else {
            return value.filter(|text| !text.is_empty()).map(Secret);
        };
        if value.is_some() {
            self.faults.push(format!("{called} and {file_variable} are both set: keep one"));
            return None;
        }
        self.secret_file(&file_variable, path)
    }

    fn secret_file(&mut self, file_variable: &str, path: &OsStr) -> Option<Secret> {
        match std::fs::read_to_string(path) {
            Ok(text) if !text.trim().is_empty() => Some(Secret(text.trim().to_owned())),
            Ok(_) => {
                self.faults.push(format!("{file_variable} names an empty file ({})", path.to_string_lossy()));
                None
            }
            Err(error) => {
                self.faults.push(format!(
                    "{file_variable} names a file that cannot be read ({}): {error}",
                    path.to_string_lossy()
                ));
                None
            }
        }
    }

    pub(super) fn duration(&mut self, name: &str) -> Duration {
        let (text, called, knob) = self.given(name);
        let Kind::Duration { min, max } = knob.kind else { return Duration::ZERO };
        let Some(text) = text else { return min };
        match humantime::parse_duration(&text) {
            Ok(duration) if duration >= min && duration <= max => duration,
            Ok(_) => {
                self.faults.push(format!("{called}={text} is out of bounds: {} to {}", short(min), short(max)));
                min
            }
            Err(_) => {
                self.faults.push(format!("{called}={} is not a duration: write 500ms, 5s or 2m", text.escape_debug()));
                min
            }
        }
    }

    pub(super) fn integer<N: TryFrom<u64> + Default>(&mut self, name: &str) -> N {
        let (text, called, knob) = self.given(name);
        let Kind::Integer { min, max } = knob.kind else { return N::default() };
        let Some(text) = text else { return N::default() };
        let number = text.parse::<u64>().ok().filter(|number| (min..=max).contains(number));
        if let Some(number) = number.and_then(|number| N::try_from(number).ok()) {
            return number;
        }
        self.faults.push(format!("{called}={} is not a whole number from {min} to {max}", text.escape_debug()));
        N::default()
    }

    pub(super) fn bytes(&mut self, name: &str) -> u64 {
        let (text, called, knob) = self.given(name);
        let Kind::Bytes { min, max } = knob.kind else { return 0 };
        let Some(text) = text else { return min };
        match parse_size::parse_size(&text) {
            Ok(given) if (min..=max).contains(&given) => given,
            Ok(_) => {
                self.faults.push(format!("{called}={text} is out of bounds: {} to {}", bytes(min), bytes(max)));
                min
            }
            Err(_) => {
                let given = text.escape_debug();
                self.faults.push(format!("{called}={given} is not a number of bytes: write 512MiB or 1GiB"));
                min
            }
        }
    }

    pub(super) fn fraction(&mut self, name: &str) -> f64 {
        let (text, called, _) = self.given(name);
        let Some(text) = text else { return 0.0 };
        match text.parse::<f64>() {
            Ok(number) if (0.0..=1.0).contains(&number) => number,
            _ => {
                self.faults.push(format!("{called}={} is not a number from 0 to 1", text.escape_debug()));
                0.0
            }
        }
    }

    pub(super) fn word(&mut self, name: &str) -> String {
        let (text, called, knob) = self.given(name);
        let Kind::Choice(words) = knob.kind else { return String::new() };
        let text = text.unwrap_or_default();
        let lower = text.to_ascii_lowercase();
        if !words.contains(&lower.as_str()) {
            self.faults.push(format!("{called}={} is not one of: {}", text.escape_debug(), words.join(", ")));
        }
        lower
    }

    pub(super) fn list(&mut self, name: &str) -> Vec<String> {
        let (text, called, _) = self.given(name);
        let words: Vec<String> = text
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        if words.is_empty() {
            self.faults.push(format!("{called} holds no word: write online,degraded"));
        }
        words
    }

    /// The keys that are deleted in Redis. The address and the keys are of use only together.
    pub(super) fn evict(&mut self) -> Option<Evict> {
        let faults = self.faults.len();
        let url = self.secret("REDIS_URL");
        let (given, called, _) = self.given("REDIS_EVICT");
        let given = given.filter(|text| !text.is_empty());
        let refused = self.faults.len() > faults;
        let (url, given) = match (url, given) {
            (Some(url), Some(given)) => (url, given),
            (Some(_), None) => {
                let say = "DEFIB_REDIS_URL is of no use without DEFIB_REDIS_EVICT, which names the keys to delete, such as ws:{workspace_id}";
                self.faults.push(say.to_owned());
                return None;
            }
            (None, Some(_)) if !refused => {
                self.faults.push(format!("{called} needs DEFIB_REDIS_URL, which says in which Redis the keys are"));
                return None;
            }
            (None, _) => return None,
        };
        let mut patterns = Vec::new();
        for text in given.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            match Pattern::parse(text) {
                Ok(pattern) => patterns.push(pattern),
                Err(why) => self.faults.push(format!("{called}: {}: {why}", text.escape_debug())),
            }
        }
        let redis =
            Address::parse(url.expose()).map_err(|why| self.faults.push(format!("DEFIB_REDIS_URL: {why}"))).ok()?;
        if patterns.is_empty() && self.faults.len() == faults {
            self.faults.push(format!("{called} names no key: write ws:{{workspace_id}}"));
        }
        Some(Evict { redis, patterns })
    }

    /// The webhook. Its knobs are checked together.
    pub(super) fn webhook(&mut self) -> Option<Webhook> {
        let faults = self.faults.len();
        let (url, secret) = (self.secret("WEBHOOK_URL"), self.secret("WEBHOOK_SECRET"));
        let (events, format) = (self.text("WEBHOOK_EVENTS"), self.word("WEBHOOK_FORMAT"));
        if self.faults.len() > faults {
            return None; // a knob that could not be read would seem not to be set
        }
        let given = Given {
            url: url.as_ref().map(Secret::expose),
            secret: secret.as_ref().map(Secret::expose),
            events: events.as_deref(),
            is_slack: format == "slack",
        };
        Webhook::read(given).unwrap_or_else(|faults| {
            self.faults.extend(faults);
            None
        })
    }

    pub(super) fn label(&mut self, name: &str) -> String {
        let (text, called, _) = self.given(name);
        let text = text.unwrap_or_default();
        if text.is_empty() || text.contains(['=', ',']) || text.contains(char::is_whitespace) {
            self.faults.push(format!("{called}={} is not a container label's name", text.escape_debug()));
        }
        text
    }

    /// Names of hosts.
    pub(super) fn hosts(&mut self, name: &str) -> Hosts {
        let (text, called, _) = self.given(name);
        Hosts::parse(&text.unwrap_or_default()).unwrap_or_else(|word| {
            self.faults.push(format!(
                "{called}: {} is not the name of a host: write defib.example.com, *.example.com or *, without a scheme and a port",
                word.escape_debug()
            ));
            Hosts::default()
        })
    }

    pub(super) fn address(&mut self, name: &str) -> SocketAddr {
        let (text, called, _) = self.given(name);
        let text = text.unwrap_or_default();
        if let Some(address) = text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next()) {
            return address;
        }
        self.faults.push(format!(
            "{called}={} is not an address: write host:port, such as 127.0.0.1:9464",
            text.escape_debug()
        ));
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    pub(super) fn log_filter(&mut self, name: &str) -> String {
        let (text, called, _) = self.given(name);
        let text = text.unwrap_or_default();
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&text) {
            self.faults.push(format!("{called}={} is not a log filter: {error}", text.escape_debug()));
        } else if let Some(word) = misspelt_level(&text) {
            self.faults.push(format!(
                "{called}={}: {} is no level. Write off, error, warn, info, debug or trace, and for one module its name and a level, such as \
                 defib_engine=debug",
                text.escape_debug(),
                word.escape_debug()
            ));
        }
        text
    }

    pub(super) fn engines(&mut self, name: &str) -> Vec<(EngineName, EngineUrl)> {
        let (text, called, _) = self.given(name);
        let (text, called) = match text {
            Some(text) => (text, called),
            None => match self.variable("DOCKER_HOST").and_then(|host| host.to_str()) {
                Some(host) => (format!("default={host}"), format!("DOCKER_HOST (since {called} is not set)")),
                None => ("default=unix:///var/run/docker.sock".to_owned(), called),
            },
        };
        let mut engines: Vec<(EngineName, EngineUrl)> = Vec::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let Some((engine, url)) = entry.split_once('=') else {
                self.faults.push(format!("{called}: {} is not name=url", entry.escape_debug()));
                continue;
            };
            let engine = engine.trim();
            if engine.is_empty() || !engine.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
                self.faults.push(format!(
                    "{called}: {} is not an engine's name: letters, digits, dot, dash and underscore",
                    engine.escape_debug()
                ));
                continue;
            }
            match url.trim().parse::<EngineUrl>() {
                Ok(_) if engines.iter().any(|(known, _)| known.as_str() == engine) => {
                    self.faults.push(format!("{called}: the engine {engine} is named twice"));
                }
                Ok(url) => engines.push((engine.into(), url)),
                Err(error) => self.faults.push(format!("{called}: engine {engine}: {error}")),
            }
        }
        if engines.is_empty() && self.faults.is_empty() {
            self.faults.push(format!("{called} names no engine: write default=unix:///var/run/docker.sock"));
        }
        engines
    }
}

/// A word of a log filter that stands alone and is no level. The filter would take it for the name of a module, and would then log
/// nothing of all others. `None`: there is none. What is in brackets is not looked at.
fn misspelt_level(filter: &str) -> Option<&str> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |word: &str| {
        LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level)) || matches!(word, "0" | "1" | "2" | "3" | "4" | "5")
    };
    let mut words = filter.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.find(|word| !word.contains(['=', '[', ']', '{', '}', ':']) && !is_level(word))
}

/// Kubernetes puts `<SERVICE>_SERVICE_HOST`, `<SERVICE>_PORT=tcp://…` and `<SERVICE>_PORT_<number>_…` into every container, and a service may be called
/// defib.
fn is_service_link(name: &str, value: &str) -> bool {
    let has_scheme = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let of_a_port = |(_, rest): (&str, &str)| rest.starts_with(|first: char| first.is_ascii_digit());
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && has_scheme)
        || name.split_once("_PORT_").is_some_and(of_a_port)
}
