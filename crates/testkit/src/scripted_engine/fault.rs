//! What can go wrong with a call, and the list of the faults that a test has asked for.

use std::time::Duration;

use bytes::Bytes;

/// The calls of the Docker API that the scripted engine tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// `GET /_ping`
    Ping,
    /// `GET /version`
    Version,
    /// `GET /info`
    Info,
    /// `GET /containers/json`
    List,
    /// `GET /containers/{id}/json`
    Inspect,
    /// `POST /containers/{id}/restart`
    Restart,
    /// `POST /containers/{id}/start`
    Start,
    /// `POST /containers/{id}/stop`
    Stop,
    /// `POST /containers/{id}/kill`
    Kill,
    /// `GET /containers/{id}/logs`
    Logs,
    /// `GET /events`
    Events,
    /// Anything else: answered 404.
    Other,
}

/// How a call fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This status with this body, and nothing done. Docker's own bodies are `{"message":"…"}`.
    Status(u16, String),
    /// 200 with this body in place of the answer, and nothing done.
    Garbage(Bytes),
    /// The connection is closed without an answer, and nothing done.
    Eof,
    /// The first half of the right answer, then the connection is closed. The call is carried out.
    Truncated,
    /// The head and the first half of the right answer, and then nothing any more on a connection that stays open. The call is
    /// carried out.
    Stalled,
    /// The call is never answered, and nothing is done.
    Hang,
    /// The right answer, later. As with dockerd, a client that gives up before does not stop the call from being carried out.
    Delay(Duration),
    /// The call is carried out; then the connection is closed without an answer.
    DoneThenEof,
    /// The call is carried out, and never answered.
    DoneThenHang,
    /// The connection is closed without an answer, and the call is carried out all the same, this much later.
    EofThenDone(Duration),
    /// The call is carried out and answered; this much later the container exits with this code, if it lives that same life.
    DoneThenExit(Duration, i64),
    /// List and inspect show a container as `exited` (137, just now), whatever it does. Elsewhere like no fault.
    FalselyStopped,
    /// List and inspect do not show a container. Elsewhere like no fault.
    FalselyMissing,
}

impl Fault {
    /// A server error in Docker's words.
    #[must_use]
    pub fn server_error(message: &str) -> Self {
        Self::Status(500, serde_json::json!({ "message": message }).to_string())
    }

    pub(super) fn is_lie(&self) -> bool {
        matches!(self, Self::FalselyStopped | Self::FalselyMissing)
    }
}

/// One line of the script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultRule {
    call: Call,
    container: Option<String>,
    fault: Fault,
    times_left: Option<usize>,
}

impl FaultRule {
    /// Fails every such call, for ever.
    #[must_use]
    pub fn new(call: Call, fault: Fault) -> Self {
        Self { call, container: None, fault, times_left: None }
    }

    /// Only for this container, named as the caller will name it or by its id. On a list, only the two lies can be about one container.
    #[must_use]
    pub fn container(mut self, id: impl Into<String>) -> Self {
        self.container = Some(id.into());
        self
    }

    /// Only the next `times` calls that it fits.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times_left = Some(times);
        self
    }
}

/// The rules in force. The first that fits a call decides; on a list, all lies that fit are told.
#[derive(Debug, Default)]
pub(super) struct FaultBook {
    rules: Vec<FaultRule>,
}

/// A lie, and about which container: `None` for all.
pub(super) type Lie = (Option<String>, Fault);

impl FaultBook {
    pub(super) fn add(&mut self, rule: FaultRule) {
        self.rules.push(rule);
    }

    pub(super) fn remove(&mut self, call: Call) {
        self.rules.retain(|rule| rule.call != call);
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// The fault for a call, used up by one. `names` are those of the container that the call is about.
    pub(super) fn take(&mut self, call: Call, names: &[&str]) -> Option<Fault> {
        let fits = |rule: &FaultRule| {
            rule.call == call
                && rule.times_left != Some(0)
                && !(call == Call::List && (rule.fault.is_lie() || rule.container.is_some()))
                && rule.container.as_deref().is_none_or(|container| names.contains(&container))
        };
        let rule = self.rules.iter_mut().find(|rule| fits(rule))?;
        rule.times_left = rule.times_left.map(|left| left - 1);
        Some(rule.fault.clone())
    }

    /// The lies of one list, each used up by one.
    pub(super) fn take_list_lies(&mut self) -> Vec<Lie> {
        let fits = |rule: &&mut FaultRule| rule.call == Call::List && rule.times_left != Some(0) && rule.fault.is_lie();
        self.rules
            .iter_mut()
            .filter(fits)
            .map(|rule| {
                rule.times_left = rule.times_left.map(|left| left - 1);
                (rule.container.clone(), rule.fault.clone())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_used_up_and_the_next_one_decides() {
        let mut book = FaultBook::default();
        book.add(FaultRule::new(Call::Inspect, Fault::Eof).times(2));
        book.add(FaultRule::new(Call::Inspect, Fault::Hang));
        let taken: Vec<_> = (0..3).map(|_| book.take(Call::Inspect, &["a"])).collect();
        assert_eq!(taken, [Some(Fault::Eof), Some(Fault::Eof), Some(Fault::Hang)]);
        assert_eq!(book.take(Call::List, &[]), None);
    }

    #[test]
    fn a_rule_for_one_container_spares_the_others() {
        let mut book = FaultBook::default();
        book.add(FaultRule::new(Call::Restart, Fault::Eof).container("a"));
        assert_eq!(book.take(Call::Restart, &["b"]), None);
        assert_eq!(book.take(Call::Restart, &["long-id", "a"]), Some(Fault::Eof));
    }

    #[test]
    fn one_list_tells_every_lie_once() {
        let mut book = FaultBook::default();
        book.add(FaultRule::new(Call::List, Fault::FalselyMissing).container("a").times(1));
        book.add(FaultRule::new(Call::List, Fault::FalselyStopped).container("b"));
        assert_eq!(book.take(Call::List, &[]), None);
        assert_eq!(book.take_list_lies().len(), 2);
        assert_eq!(book.take_list_lies(), [(Some("b".to_owned()), Fault::FalselyStopped)]);
    }
}
