//! What the loop knows of its own state, for `/healthz`, `/readyz` and systemd's watchdog. Only the deciding loop reports here: a process
//! whose loop hangs must not look healthy because its HTTP server still answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use defib_policy::id::EngineName;
use defib_policy::moment::Moment;
use serde_json::{Value, json};

/// The state that the endpoints show.
#[derive(Debug)]
pub(crate) struct Health {
    /// A pass over the fleet must end at least this often, successful or not.
    turn_within: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    started: Moment,
    last_turn: Option<Moment>,
    database: Result<(), String>,
    /// Why verdicts cannot be written although the database is read: its disk is full, or it takes no writes.
    unwritable: Option<String>,
    engines: BTreeMap<EngineName, Result<(), String>>,
    /// The engines that do not answer, and since when.
    silent_since: BTreeMap<EngineName, Moment>,
    /// The passes over whole engines that are under way, with their beginning.
    passes: BTreeMap<EngineName, Moment>,
    stopping: bool,
}

impl Health {
    pub(crate) fn new(started: Moment, turn_within: Duration, engines: impl Iterator<Item = EngineName>) -> Self {
        let unknown = || Err("not asked yet".to_owned());
        let state = State {
            started,
            last_turn: None,
            database: unknown(),
            unwritable: None,
            engines: engines.map(|engine| (engine, unknown())).collect(),
            silent_since: BTreeMap::new(),
            passes: BTreeMap::new(),
            stopping: false,
        };
        Self { turn_within, state: Mutex::new(state) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop turned. Returns whether this was the first time.
    pub(crate) fn turned(&self, now: Moment) -> bool {
        self.state().last_turn.replace(now).is_none()
    }

    /// Takes note of what the database said. Returns whether that differs from what it said before.
    pub(crate) fn database(&self, said: Result<(), String>) -> bool {
        let mut state = self.state();
        let news = state.database != said;
        state.database = said;
        news
    }

    /// Whether the database takes what is written, or why not.
    pub(crate) fn writable(&self, said: Result<(), String>) {
        self.state().unwritable = said.err();
    }

    /// What an engine said last. Returns whether that is news.
    pub(crate) fn engine(&self, name: &EngineName, said: Result<(), String>, now: Moment) -> bool {
        let well = said.is_ok();
        let mut state = self.state();
        if well {
            state.silent_since.remove(name);
        } else {
            state.silent_since.entry(name.clone()).or_insert(now);
        }
        let before = state.engines.insert(name.clone(), said);
        before.is_none_or(|before| before.is_ok() != well || before == Err("not asked yet".to_owned()))
    }

    /// A pass over a whole engine begins.
    pub(crate) fn pass_begins(&self, engine: Option<&EngineName>, now: Moment) {
        if let Some(engine) = engine {
            self.state().passes.insert(engine.clone(), now);
        }
    }

    /// A pass over a whole engine has ended, successful or not.
    pub(crate) fn pass_ended(&self, engine: Option<&EngineName>) {
        if let Some(engine) = engine {
            self.state().passes.remove(engine);
        }
    }

    /// The engines that have not answered for at least `span`, and those with a pass that does not end: this replica cannot decide about
    /// them, so another one should own them.
    pub(crate) fn unreached(&self, now: Moment, span: Duration) -> BTreeSet<EngineName> {
        let state = self.state();
        let silent = state.silent_since.iter().filter(|(_, since)| now - **since >= span);
        let stuck = state.passes.iter().filter(|(_, since)| now - **since > self.turn_within);
        silent.chain(stuck).map(|(engine, _)| engine.clone()).collect()
    }

    pub(crate) fn stopping(&self) {
        self.state().stopping = true;
    }

    /// Whether the loop turns.
    pub(crate) fn alive(&self, now: Moment) -> (bool, Value) {
        let state = self.state();
        let since = now - state.last_turn.unwrap_or(state.started);
        let alive = since <= self.turn_within;
        let reason = if alive {
            "the loop turns".to_owned()
        } else {
            format!(
                "no pass over the fleet has ended for {:.0} s (expected within {:.0} s)",
                since.as_secs_f64(),
                self.turn_within.as_secs_f64()
            )
        };
        (alive, json!({ "ok": alive, "reason": reason, "seconds_since_last_pass": since.as_secs_f64() }))
    }

    /// Whether the database and at least one engine were reached.
    pub(crate) fn ready(&self) -> (bool, Value) {
        let state = self.state();
        let reached = state.engines.values().filter(|said| said.is_ok()).count();
        let ready = state.database.is_ok() && state.unwritable.is_none() && reached > 0 && !state.stopping;
        let reason = if state.stopping {
            "stopping".to_owned()
        } else if let Err(why) = &state.database {
            format!("the database was not reached: {why}")
        } else if let Some(why) = &state.unwritable {
            format!("the database is read and takes no writes, so nothing can be restarted: {why}")
        } else if reached == 0 {
            "no engine was reached".to_owned()
        } else {
            format!("the database and {reached} of {} engines were reached", state.engines.len())
        };
        let engines: BTreeMap<&str, &str> = state
            .engines
            .iter()
            .map(|(name, said)| (name.as_str(), said.as_ref().err().map_or("reached", String::as_str)))
            .collect();
        let database = state.database.as_ref().err().or(state.unwritable.as_ref()).map_or("reached", String::as_str);
        (ready, json!({ "ok": ready, "reason": reason, "database": database, "engines": engines }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_daemon_is_alive_while_passes_end_whatever_they_say() {
        let health = Health::new(at(0), Duration::from_secs(30), std::iter::once("e".into()));
        assert!(health.alive(at(30)).0, "it has just started");
        assert!(!health.alive(at(31)).0);
        assert!(health.turned(at(31)) && !health.turned(at(32)));
        health.database(Err("refused".to_owned()));
        let (alive, shown) = health.alive(at(60));
        assert!(alive, "{shown}");
    }

    #[test]
    fn an_engine_is_unreached_once_it_has_been_silent_for_long() {
        let health = Health::new(at(0), Duration::from_secs(30), std::iter::once("e".into()));
        let silent = |seconds, span| !health.unreached(at(seconds), Duration::from_secs(span)).is_empty();
        assert!(!silent(100, 15), "not asked yet");
        for seconds in [100, 105] {
            health.engine(&"e".into(), Err("timed_out".to_owned()), at(seconds));
        }
        assert!(!silent(114, 15) && silent(115, 15), "counted from the first silence");
        health.engine(&"e".into(), Ok(()), at(116));
        assert!(!silent(200, 15));
    }

    #[test]
    fn an_engine_with_a_pass_that_does_not_end_is_unreached() {
        let health = Health::new(at(0), Duration::from_secs(30), std::iter::once("e".into()));
        let engine = EngineName::from("e");
        health.pass_begins(Some(&engine), at(10));
        assert!(health.unreached(at(40), Duration::from_secs(15)).is_empty(), "it may take as long as a pass may");
        assert_eq!(health.unreached(at(41), Duration::from_secs(15)).len(), 1);
        health.pass_ended(Some(&engine));
        assert!(health.unreached(at(41), Duration::from_secs(15)).is_empty());
    }

    #[test]
    fn a_daemon_is_ready_once_the_database_and_an_engine_were_reached() {
        let health = Health::new(at(0), Duration::from_secs(30), ["a".into(), "b".into()].into_iter());
        assert!(!health.ready().0);
        assert!(health.database(Ok(())) && !health.database(Ok(())), "news once");
        assert!(!health.ready().0);
        assert!(health.engine(&"a".into(), Ok(()), at(1)));
        assert!(health.ready().0);
        assert!(health.engine(&"a".into(), Err("timed_out".to_owned()), at(2)));
        let (ready, shown) = health.ready();
        assert!(!ready && shown["reason"] == "no engine was reached", "{shown}");
        health.engine(&"b".into(), Ok(()), at(3));
        health.writable(Err("no space left".to_owned()));
        let (ready, shown) = health.ready();
        assert!(!ready && shown["database"] == "no space left", "{shown}");
        health.writable(Ok(()));
        assert!(health.ready().0);
        health.stopping();
        assert_eq!(health.ready().1["reason"], "stopping");
    }
}
