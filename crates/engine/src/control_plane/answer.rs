//! What a control plane's answer says about an instance.
//!
//! An answer is evidence only if all of it fits: it is a success, it is JSON, it is about the instance that was asked for, and the preset
//! says what its state means. Everything else is no evidence, and gets a reason from a closed set. That includes a 404, because a server
//! also answers 404 for a wrong tenant or a wrong path, and so does a proxy.

use defib_policy::id::ContainerId;
use defib_policy::moment::Timestamp;
use defib_policy::sample::{Exit, Fault, Health, Incarnation, Observation, Transition};
use serde_json::Value;

use super::api::{Api, Fields, Get, Pointer, State, States};
use super::http::{Answer, NoAnswer};

/// Numbers above this are milliseconds since 1970 and not seconds: in seconds it is the year 5138.
const SECONDS_MAX: f64 = 1e11;

/// What one answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Understood {
    /// The interface's word for the state, where there is one.
    pub(crate) word: Option<String>,
    pub(crate) observation: Observation,
    /// Why the answer is no evidence. `None` if it is evidence.
    pub(crate) complaint: Option<String>,
}

impl Understood {
    fn nothing(fault: Fault, word: Option<String>, complaint: impl Into<String>) -> Self {
        Self { word, observation: Observation::Unknown { fault }, complaint: Some(complaint.into()) }
    }
}

/// Reads the answer to a `[get]` request, which asks about one instance.
pub(crate) fn of_get(api: &Api, get: &Get, reference: &str, answer: &Result<Answer, NoAnswer>) -> Understood {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Understood::nothing(fault_of(error), None, error.to_string()),
    };
    if api.missing.as_ref().is_some_and(|rule| rule.is_met(answer.status, &answer.body)) {
        return Understood { word: None, observation: Observation::Missing, complaint: None };
    }
    if !(200..300).contains(&answer.status) {
        let what = format!("it answered {}: no evidence{}", answer.status, hint(answer.status));
        return Understood::nothing(Fault::EngineError, None, what);
    }
    let Ok(value) = serde_json::from_slice::<Value>(&answer.body) else {
        return Understood::nothing(Fault::Garbled, None, "the answer is not JSON");
    };
    if let Some(id) = &get.id
        && id.of(&value).and_then(text).as_deref() != Some(reference)
    {
        return Understood::nothing(Fault::Garbled, None, "the answer is about another instance");
    }
    of_value(&get.fields, &api.states, reference, &value)
}

/// Reads the part of an answer that is about one instance.
pub(crate) fn of_value(fields: &Fields, states: &States, reference: &str, value: &Value) -> Understood {
    let Some(word) = fields.state.of(value).and_then(text) else {
        return Understood::nothing(Fault::Garbled, None, "the answer has no state where the preset looks for it");
    };
    let Some(state) = states.0.get(&word) else {
        let what = format!("the state {word:?} is not named in [states]: no evidence");
        return Understood::nothing(Fault::Garbled, Some(word), what);
    };
    let time = |pointer: &Option<Pointer>| pointer.as_ref()?.of(value).and_then(timestamp);
    // A start is not read of an instance that does not run. Some interfaces keep one time for the last start and the last stop, so it may
    // be the time of the stop.
    let started_at = if *state == State::Running { time(&fields.started_at) } else { None };
    let incarnation = Incarnation { container_id: ContainerId::from(reference), started_at };
    let observation = match state {
        State::Running => Observation::Running { incarnation, health: Health::None },
        State::Stopped => {
            let exit = Exit { finished_at: time(&fields.stopped_at), ..Exit::default() };
            Observation::Stopped { incarnation, exit }
        }
        State::Frozen => Observation::Frozen { incarnation },
        State::Transitional => Observation::Transitional { incarnation, transition: Transition::Created },
        State::Removing => Observation::Transitional { incarnation, transition: Transition::Removing },
    };
    Understood { word: Some(word), observation, complaint: None }
}

/// A request without an answer proves nothing. Returns why there was none.
pub(crate) const fn fault_of(error: &NoAnswer) -> Fault {
    match error {
        NoAnswer::Unreachable(_) | NoAnswer::BrokenOff(_) => Fault::Unreachable,
        NoAnswer::TimedOut(_) => Fault::TimedOut,
        NoAnswer::Garbled(_) | NoAnswer::TooLarge(_) => Fault::Garbled,
        NoAnswer::Redirected { .. } => Fault::EngineError,
        NoAnswer::Unsendable(_) => Fault::BadReference,
    }
}

/// A hint for the operator where to look.
pub(crate) const fn hint(status: u16) -> &'static str {
    match status {
        401 => " (is the token right?)",
        403 => " (may the token do this?)",
        404 => " (are the address, the tenant and instance_ref right?)",
        429 => " (it was asked too often: lower `rate` in the preset)",
        _ => "",
    }
}

/// The value as text. A number is written out, because some interfaces use numbers as names of instances or states.
pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// RFC 3339, or seconds or milliseconds since 1970. Zero and the year 1 mean "never".
fn timestamp(value: &Value) -> Option<Timestamp> {
    let micros = match value {
        Value::String(text) => chrono::DateTime::parse_from_rfc3339(text).ok()?.timestamp_micros(),
        Value::Number(number) => {
            let number = number.as_f64()?;
            let seconds = if number > SECONDS_MAX { number / 1e3 } else { number };
            // A number outside of the range becomes 0 or the largest one, and is refused below.
            #[expect(clippy::cast_possible_truncation, reason = "a float that is too large saturates")]
            let micros = (seconds * 1e6) as i64;
            micros
        }
        _ => return None,
    };
    (micros > 0 && micros < i64::MAX).then_some(Timestamp(micros))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const STARTED: i64 = 1_709_210_096_000_000;

    fn pointer(text: &str) -> Pointer {
        Pointer::new(text).unwrap()
    }

    fn fields() -> Fields {
        Fields { state: pointer("/state"), started_at: Some(pointer("/start")), stopped_at: Some(pointer("/stop")) }
    }

    fn states() -> States {
        let named = [
            ("on", State::Running),
            ("off", State::Stopped),
            ("asleep", State::Frozen),
            ("booting", State::Transitional),
            ("going", State::Removing),
        ];
        States(named.into_iter().map(|(word, state)| (word.to_owned(), state)).collect())
    }

    fn understood(value: &Value) -> Understood {
        of_value(&fields(), &states(), "i-1", value)
    }

    #[test]
    fn each_named_state_is_an_observation_of_the_instance() {
        for (word, label) in [
            ("on", "running"),
            ("off", "stopped"),
            ("asleep", "frozen"),
            ("booting", "transitional"),
            ("going", "transitional"),
        ] {
            let said = understood(&json!({"state": word}));
            assert_eq!((said.observation.label(), said.complaint), (label, None), "{word}");
            assert_eq!(said.observation.incarnation().unwrap().container_id.as_str(), "i-1");
        }
        let said = understood(&json!({"state": "going"})).observation;
        assert!(matches!(said, Observation::Transitional { transition: Transition::Removing, .. }));
    }

    #[test]
    fn a_state_that_is_not_named_and_one_that_is_not_there_are_no_evidence() {
        for value in
            [json!({"state": "ON"}), json!({"state": ""}), json!({"state": null}), json!({}), json!([1]), json!(7)]
        {
            let said = understood(&value);
            assert_eq!(said.observation, Observation::Unknown { fault: Fault::Garbled }, "{value}");
            assert!(said.complaint.is_some());
        }
    }

    #[test]
    fn times_are_read_where_they_mean_what_they_say() {
        let both = |state: &str| json!({"state": state, "start": "2024-02-29T12:34:56Z", "stop": STARTED / 1_000_000});
        let running = understood(&both("on")).observation;
        assert_eq!(running.incarnation().unwrap().started_at, Some(Timestamp(STARTED)));
        let Observation::Stopped { incarnation, exit } = understood(&both("off")).observation else { panic!() };
        assert_eq!((incarnation.started_at, exit.finished_at), (None, Some(Timestamp(STARTED))));
        for (value, expected) in [
            (json!("2024-02-29T13:34:56+01:00"), Some(STARTED)),
            (json!(STARTED / 1_000), Some(STARTED)),
            (json!(0), None),
            (json!(-5), None),
            (json!("0001-01-01T00:00:00Z"), None),
            (json!("yesterday"), None),
            (json!(1e300), None),
            (json!(true), None),
        ] {
            assert_eq!(timestamp(&value), expected.map(Timestamp), "{value}");
        }
    }
}
