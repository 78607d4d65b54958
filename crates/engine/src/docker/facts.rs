//! What a container's record says, in the policy's words.
//!
//! Engines keep the same fact in several places that do not always agree: a status word, four flags, a text for humans.
//! The rule: the status word decides. The flags count only if there is no word. A record that says both "exited" and "running" is no
//! evidence. No container counts as stopped unless its record says so.
//!
//! A list tells less than an inspect: no start, no end, no exit code. So a list can say that a container lives
//! (`Glance::Seen`), but never how one died (`Glance::Doubt`).

use std::time::Duration;

use bollard::models::EventMessage;
use chrono::DateTime;
use defib_policy::moment::Timestamp;
use defib_policy::sample::{Exit, Fault, Health, Incarnation, Observation, Transition};

use super::entry::{Entry, ListedHealth, State};
use super::record::{Record, State as RecordState, Status};

/// What a list entry tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Glance {
    /// The list tells enough.
    Seen(Observation),
    /// The container has to be inspected, because it exited, it is unhealthy, or the list does not tell its state.
    Doubt,
}

/// How alive a list entry looks. Of several containers with the label of one workspace, the liveliest is taken for the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Liveliness {
    Ended,
    Untold,
    Frozen,
    InTransit,
    Running,
}

pub(crate) const fn liveliness(entry: &Entry) -> Liveliness {
    match entry.state {
        State::Running => Liveliness::Running,
        State::Created | State::Restarting | State::Removing | State::Stopping => Liveliness::InTransit,
        State::Paused => Liveliness::Frozen,
        State::Exited | State::Dead => Liveliness::Ended,
        State::Other => Liveliness::Untold,
    }
}

/// Reads a list entry.
pub(crate) fn glance(entry: &Entry) -> Glance {
    if entry.id.is_empty() {
        return Glance::Seen(Observation::Unknown { fault: Fault::Garbled });
    }
    let incarnation = Incarnation { container_id: (*entry.id).into(), started_at: None };
    let transition =
        |transition| Glance::Seen(Observation::Transitional { incarnation: incarnation.clone(), transition });
    match entry.state {
        State::Running => {
            let health = match entry.health {
                // A health check counts only if it ran after the last start and not too long ago. Only an inspect tells when it ran.
                ListedHealth::Unhealthy => return Glance::Doubt,
                ListedHealth::None => Health::None,
                ListedHealth::Starting => Health::Starting,
                ListedHealth::Healthy => Health::Healthy,
            };
            Glance::Seen(Observation::Running { incarnation, health })
        }
        State::Paused => Glance::Seen(Observation::Frozen { incarnation }),
        State::Created => transition(Transition::Created),
        State::Restarting => transition(Transition::Restarting),
        State::Removing => transition(Transition::Removing),
        State::Exited | State::Dead | State::Stopping | State::Other => Glance::Doubt,
    }
}

/// Reads an inspect.
pub(crate) fn observe(record: &Record) -> Observation {
    const GARBLED: Observation = Observation::Unknown { fault: Fault::Garbled };
    let (Some(id), Some(state)) = (record.id.as_deref().filter(|id| !id.is_empty()), &record.state) else {
        return GARBLED;
    };
    let incarnation = Incarnation { container_id: id.into(), started_at: timestamp(state.started_at.as_deref()) };
    let is = |flag: Option<bool>| flag == Some(true);
    match state.status {
        Some(Status::Running) => Observation::Running { incarnation, health: health(record, state) },
        Some(Status::Paused) => Observation::Frozen { incarnation },
        Some(Status::Created) => Observation::Transitional { incarnation, transition: Transition::Created },
        Some(Status::Restarting) => Observation::Transitional { incarnation, transition: Transition::Restarting },
        Some(Status::Removing) => Observation::Transitional { incarnation, transition: Transition::Removing },
        Some(Status::Exited | Status::Dead | Status::Stopped)
            if is(state.running) || is(state.restarting) || is(state.paused) =>
        {
            GARBLED
        }
        Some(Status::Exited | Status::Dead | Status::Stopped) => {
            Observation::Stopped { incarnation, exit: exit(record, state) }
        }
        Some(Status::Empty) | None if is(state.paused) => Observation::Frozen { incarnation },
        Some(Status::Empty) | None if is(state.restarting) => {
            Observation::Transitional { incarnation, transition: Transition::Restarting }
        }
        Some(Status::Empty) | None if is(state.running) => {
            Observation::Running { incarnation, health: health(record, state) }
        }
        // No word and no flag, or a word that nobody knows.
        Some(Status::Empty | Status::Other) | None => GARBLED,
    }
}

fn exit(record: &Record, state: &RecordState) -> Exit {
    Exit {
        exit_code: state.exit_code,
        oom_killed: state.oom_killed.unwrap_or(false),
        finished_at: timestamp(state.finished_at.as_deref()),
        engine_restarts: engine_restarts(record, state.exit_code),
    }
}

/// Whether the engine may start an exited container by itself.
fn engine_restarts(record: &Record, exit_code: Option<i64>) -> bool {
    let Some(policy) = record.host_config.as_ref().and_then(|host| host.restart_policy.as_ref()) else { return false };
    match policy.name.as_deref() {
        Some("always" | "unless-stopped") => true,
        Some("on-failure") => {
            let tries_max = policy.maximum_retry_count.filter(|max| *max > 0).unwrap_or(i64::MAX);
            exit_code != Some(0) && record.restart_count.unwrap_or(0) < tries_max
        }
        Some(_) | None => false,
    }
}

fn health(record: &Record, state: &RecordState) -> Health {
    let Some(health) = &state.health else { return Health::None };
    match health.status.as_deref() {
        Some("starting") => Health::Starting,
        Some("healthy") => Health::Healthy,
        Some("unhealthy") => {
            let ends = health.log.iter().flatten().filter_map(|check| timestamp(check.end.as_deref()));
            Health::Unhealthy { last_check_at: ends.max(), due_within: Some(check_due_within(record)) }
        }
        Some(_) | None => Health::None,
    }
}

/// Twice what one health check and the pause before it may take. What the container does not say is the engine's default.
fn check_due_within(record: &Record) -> Duration {
    /// Docker's default of both the interval and the time-out.
    const DEFAULT: Duration = Duration::from_secs(30);
    let check = record.config.as_ref().and_then(|config| config.healthcheck.as_ref());
    let told = |nanos: Option<i64>| {
        let nanos = nanos.and_then(|nanos| u64::try_from(nanos).ok()).filter(|nanos| *nanos > 0);
        nanos.map_or(DEFAULT, Duration::from_nanos)
    };
    let interval = told(check.and_then(|check| check.interval));
    let timeout = told(check.and_then(|check| check.timeout));
    interval.saturating_add(timeout).saturating_mul(2)
}

/// Reads the RFC 3339 time of an engine, with any offset and any number of digits. `None` for the year 1, by which engines say "never", and
/// for everything else that cannot be the start of a container.
pub(crate) fn timestamp(text: Option<&str>) -> Option<Timestamp> {
    let micros = DateTime::parse_from_rfc3339(text?).ok()?.timestamp_micros();
    (micros > 0).then_some(Timestamp(micros))
}

/// When an event happened, on the engine's clock: to the microsecond if the engine tells it, and otherwise to the second.
pub(crate) fn event_time(message: &EventMessage) -> Option<Timestamp> {
    let nanos = message.time_nano.filter(|nanos| *nanos > 0).map(|nanos| nanos / 1_000);
    let seconds = message.time.filter(|seconds| *seconds > 0).and_then(|seconds| seconds.checked_mul(1_000_000));
    nanos.or(seconds).map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::super::record::{Health as HealthRecord, HealthCheck, HostConfig, RestartPolicy};
    use super::*;

    const STARTED: &str = "2024-02-29T12:34:56.000123456Z";
    const STARTED_MICROS: i64 = 1_709_210_096_000_123;
    const NEVER: &str = "0001-01-01T00:00:00Z";

    fn record(status: Option<Status>) -> Record {
        Record {
            id: Some("c1".into()),
            state: Some(RecordState { status, started_at: Some(STARTED.into()), ..RecordState::default() }),
            ..Record::default()
        }
    }

    fn with_state(status: Option<Status>, change: impl FnOnce(&mut RecordState)) -> Record {
        let mut record = record(status);
        change(record.state.as_mut().unwrap());
        record
    }

    fn life() -> Incarnation {
        Incarnation { container_id: "c1".into(), started_at: Some(Timestamp(STARTED_MICROS)) }
    }

    fn entry(state: State, health: ListedHealth) -> Entry {
        Entry { id: "c1".into(), state, health, ..Entry::default() }
    }

    #[test]
    fn times_are_read_in_every_form_that_engines_write() {
        for (text, micros) in [
            (STARTED, Some(STARTED_MICROS)),
            ("2024-02-29T12:34:56Z", Some(1_709_210_096_000_000)),
            ("2024-02-29T13:34:56.5+01:00", Some(1_709_210_096_500_000)),
            (NEVER, None),
            ("", None),
            ("yesterday", None),
            ("1969-12-31T23:59:59Z", None),
        ] {
            assert_eq!(timestamp(Some(text)), micros.map(Timestamp), "{text:?}");
        }
        assert_eq!(timestamp(None), None);
    }

    #[test]
    fn the_status_word_decides() {
        use Transition::{Created, Removing, Restarting};
        let transitional = |transition| Observation::Transitional { incarnation: life(), transition };
        for (status, expected) in [
            (Status::Running, Observation::Running { incarnation: life(), health: Health::None }),
            (Status::Paused, Observation::Frozen { incarnation: life() }),
            (Status::Created, transitional(Created)),
            (Status::Restarting, transitional(Restarting)),
            (Status::Removing, transitional(Removing)),
            (Status::Exited, Observation::Stopped { incarnation: life(), exit: Exit::default() }),
            (Status::Dead, Observation::Stopped { incarnation: life(), exit: Exit::default() }),
            (Status::Stopped, Observation::Stopped { incarnation: life(), exit: Exit::default() }),
            (Status::Other, Observation::Unknown { fault: Fault::Garbled }),
        ] {
            assert_eq!(observe(&record(Some(status))), expected, "{status:?}");
        }
    }

    #[test]
    fn a_restarting_or_paused_container_is_that_although_its_running_flag_is_up() {
        let restarting = with_state(Some(Status::Restarting), |state| {
            state.running = Some(true);
            state.restarting = Some(true);
        });
        assert_eq!(observe(&restarting).label(), "transitional");
        let paused = with_state(Some(Status::Paused), |state| {
            state.running = Some(true);
            state.paused = Some(true);
        });
        assert_eq!(observe(&paused).label(), "frozen");
    }

    #[test]
    fn the_flags_speak_where_there_is_no_word_and_silence_is_not_death() {
        for status in [None, Some(Status::Empty)] {
            assert_eq!(observe(&with_state(status, |state| state.running = Some(true))).label(), "running");
            assert_eq!(observe(&with_state(status, |state| state.paused = Some(true))).label(), "frozen");
            assert_eq!(observe(&with_state(status, |state| state.restarting = Some(true))).label(), "transitional");
            let nothing = with_state(status, |state| {
                state.running = Some(false);
                state.exit_code = Some(137);
            });
            assert_eq!(observe(&nothing).label(), "unknown");
        }
    }

    #[test]
    fn a_record_that_contradicts_itself_or_is_not_one_says_nothing() {
        let garbled = Observation::Unknown { fault: Fault::Garbled };
        assert_eq!(observe(&with_state(Some(Status::Exited), |state| state.running = Some(true))), garbled);
        assert_eq!(observe(&Record::default()), garbled);
        assert_eq!(observe(&Record { state: None, ..record(Some(Status::Exited)) }), garbled);
        assert_eq!(observe(&Record { id: Some(String::new()), ..record(Some(Status::Exited)) }), garbled);
    }

    #[test]
    fn a_stopped_container_tells_how_it_ended() {
        let mut killed = with_state(Some(Status::Exited), |state| {
            state.exit_code = Some(137);
            state.oom_killed = Some(true);
            state.finished_at = Some("2024-02-29T12:34:57Z".into());
        });
        killed.host_config = Some(HostConfig {
            restart_policy: Some(RestartPolicy { name: Some("always".into()), maximum_retry_count: None }),
        });
        let Observation::Stopped { exit, .. } = observe(&killed) else { panic!("not stopped") };
        let finished_at = Some(Timestamp(1_709_210_097_000_000));
        assert_eq!(exit, Exit { exit_code: Some(137), oom_killed: true, finished_at, engine_restarts: true });

        let never_ran = with_state(Some(Status::Exited), |state| {
            state.started_at = Some(NEVER.into());
            state.finished_at = Some(NEVER.into());
        });
        let Observation::Stopped { incarnation, exit } = observe(&never_ran) else { panic!("not stopped") };
        assert_eq!((incarnation.started_at, exit.finished_at), (None, None));
    }

    #[test]
    fn a_restart_policy_counts_only_while_it_may_still_act() {
        for (name, tries_max, tries, exit_code, expected) in [
            ("always", 0, 0, 0, true),
            ("unless-stopped", 0, 0, 1, true),
            ("no", 0, 0, 1, false),
            ("", 0, 0, 1, false),
            ("on-failure", 0, 7, 1, true),
            ("on-failure", 0, 0, 0, false),
            ("on-failure", 3, 2, 1, true),
            ("on-failure", 3, 3, 1, false),
        ] {
            let record = Record {
                restart_count: Some(tries),
                host_config: Some(HostConfig {
                    restart_policy: Some(RestartPolicy {
                        name: Some(name.into()),
                        maximum_retry_count: Some(tries_max),
                    }),
                }),
                ..Record::default()
            };
            assert_eq!(engine_restarts(&record, Some(exit_code)), expected, "{name:?} {tries}/{tries_max} {exit_code}");
        }
    }

    #[test]
    fn a_failing_health_check_tells_when_it_last_ran() {
        let check = |end: &str| HealthCheck { end: Some(end.into()) };
        let unhealthy = with_state(Some(Status::Running), |state| {
            state.health = Some(HealthRecord {
                status: Some("unhealthy".into()),
                log: Some(vec![check("2024-02-29T12:34:57Z"), check("2024-02-29T12:34:59Z"), check(NEVER)]),
            });
        });
        let last_check_at = Some(Timestamp(1_709_210_099_000_000));
        let expected = Observation::Running {
            incarnation: life(),
            health: Health::Unhealthy { last_check_at, due_within: Some(Duration::from_secs(120)) },
        };
        assert_eq!(observe(&unhealthy), expected);
    }

    #[test]
    fn a_list_tells_who_lives_and_never_how_one_died() {
        let unheard = |health| {
            let incarnation = Incarnation { container_id: "c1".into(), started_at: None };
            Glance::Seen(Observation::Running { incarnation, health })
        };
        let running = |health| glance(&entry(State::Running, health));
        assert_eq!(running(ListedHealth::None), unheard(Health::None));
        assert_eq!(running(ListedHealth::Healthy), unheard(Health::Healthy));
        assert_eq!(running(ListedHealth::Starting), unheard(Health::Starting));
        assert_eq!(running(ListedHealth::Unhealthy), Glance::Doubt);

        for (state, label) in [
            (State::Paused, "frozen"),
            (State::Created, "transitional"),
            (State::Restarting, "transitional"),
            (State::Removing, "transitional"),
        ] {
            let Glance::Seen(seen) = glance(&entry(state, ListedHealth::None)) else { panic!("{state:?} in doubt") };
            assert_eq!(seen.label(), label);
        }
        for state in [State::Exited, State::Dead, State::Stopping, State::Other] {
            assert_eq!(glance(&entry(state, ListedHealth::None)), Glance::Doubt, "{state:?}");
        }
        assert_eq!(glance(&Entry::default()), Glance::Seen(Observation::Unknown { fault: Fault::Garbled }));
    }

    #[test]
    fn an_event_happened_to_the_microsecond_if_the_engine_says_so() {
        let at = |time, time_nano| event_time(&EventMessage { time, time_nano, ..EventMessage::default() });
        assert_eq!(at(Some(7), Some(7_123_456_789)), Some(Timestamp(7_123_456)));
        assert_eq!(at(Some(7), None), Some(Timestamp(7_000_000)));
        assert_eq!(at(None, Some(0)), None);
    }
}
