//! Every preset that ships can be read, and a wrong one is refused with its line and key.

use super::*;
use crate::control_plane::template::Values;

const MINIMAL: &str = "base = 'https://h'\n[get]\npath = '/i/{instance_ref}'\nstate = '/state'\n[states]\nrunning = ['on']\nstopped = ['off']\n";

fn variables() -> Variables {
    Variables::of(&[("token", "t0ken"), ("app", "my-app")])
}

fn refusal(text: &str) -> String {
    Preset::of(text).read(None, &variables(), Purpose::Engine).err().expect("refused").to_string()
}

#[test]
fn every_preset_that_ships_can_be_read_for_both_purposes() {
    for (name, _) in BUILT_IN {
        let preset = Preset::built_in(name).unwrap();
        let api = preset.read(Some("https://h/b/"), &variables(), Purpose::Engine).unwrap();
        assert_eq!(api.base, "https://h/b", "{name}");
        // The restarts of molecule-core are made by another server, whose address is not among the variables.
        assert!(api.get.is_some() && api.restart.is_some() == (*name != *"molecule-core"), "{name}");
        let api = preset.read(Some("https://h"), &variables(), Purpose::Platform).unwrap();
        assert!(api.get.is_none() && api.restart.is_some(), "{name}");
    }
    let error = Preset::built_in("nope").unwrap_err().to_string();
    assert!(error.contains("there are coder, daytona, fly-machines, generic, molecule-core"), "{error}");
}

/// A meaning, and the interface's words that have it. `None`: they are left unknown on purpose, and the preset says why.
type Meaning = (Option<State>, &'static [&'static str]);

/// What each documentation says that a state may be.
const DOCUMENTED: [(&str, &[Meaning]); 4] = [
    (
        "fly-machines",
        &[
            (Some(State::Running), &["started"]),
            (Some(State::Stopped), &["stopped", "failed"]),
            (Some(State::Frozen), &["suspended"]),
            (
                Some(State::Transitional),
                &["created", "creating", "starting", "stopping", "restarting", "suspending", "updating", "replacing"],
            ),
            (Some(State::Removing), &["destroying", "launch_failed"]),
            (None, &["destroyed", "replaced", "migrated"]),
        ],
    ),
    (
        "daytona",
        &[
            (Some(State::Running), &["started"]),
            (Some(State::Stopped), &["stopped"]),
            (Some(State::Frozen), &["archived", "archiving", "paused", "pausing"]),
            (
                Some(State::Transitional),
                &[
                    "creating",
                    "starting",
                    "stopping",
                    "restoring",
                    "resuming",
                    "pending_build",
                    "building_snapshot",
                    "pulling_snapshot",
                    "snapshotting",
                    "forking",
                    "resizing",
                ],
            ),
            (Some(State::Removing), &["destroying", "destroyed"]),
            (None, &["error", "build_failed", "unknown"]),
        ],
    ),
    (
        "coder",
        &[
            (Some(State::Running), &["running"]),
            (Some(State::Stopped), &["stopped"]),
            (Some(State::Transitional), &["pending", "starting", "stopping", "canceling"]),
            (Some(State::Removing), &["deleting", "deleted"]),
            (None, &["failed", "canceled"]),
        ],
    ),
    (
        "molecule-core",
        &[
            (Some(State::Running), &["running"]),
            (Some(State::Stopped), &["stopped", "terminated"]),
            (Some(State::Transitional), &["pending", "stopping", "shutting-down"]),
        ],
    ),
];

#[test]
fn every_documented_state_is_understood_or_left_unknown_on_purpose() {
    for (name, states) in DOCUMENTED {
        let api = Preset::built_in(name).unwrap().read(Some("https://h"), &variables(), Purpose::Engine).unwrap();
        let mut undocumented = api.states.0.clone();
        for (expected, words) in states {
            for word in *words {
                assert_eq!(api.states.0.get(*word), expected.as_ref(), "{word} of {name}");
                undocumented.remove(*word);
            }
        }
        assert!(undocumented.is_empty(), "{name} names what is not documented: {undocumented:?}");
    }
}

#[test]
fn the_platforms_restart_asks_for_no_variable_that_it_does_not_use() {
    let text = "headers = { A = '${token}' }\n[get]\npath = '/${nope}'\n[restart]\nsteps = [{ method = 'POST', path = '/r' }]\n";
    let api = Preset::of(text).read(Some("https://h"), &variables(), Purpose::Platform).unwrap();
    assert_eq!(api.restart.unwrap().steps[0].path.fill(Values::default()).as_deref(), Some("/r"));
}

#[test]
fn a_wrong_preset_is_refused_with_its_line_and_key() {
    assert!(Preset::of(MINIMAL).read(None, &variables(), Purpose::Engine).is_ok());
    for (text, expected) in [
        (MINIMAL.replace("base = 'https://h'", ""), "`base` is missing"),
        (MINIMAL.replace("https://h", "ftp://h"), "line 1, `base`: an address begins with http://"),
        (MINIMAL.replace("https://h", "https://u:s3cret@h"), "line 1, `base`: an address takes no user or password"),
        (MINIMAL.replace("path = '/i", "path = 'i"), "line 3, `get.path`: a path begins with a /"),
        (MINIMAL.replace("{instance_ref}", "x"), "line 3, `get.path`: the path has to name the instance"),
        (MINIMAL.replace("{instance_ref}", "{cursor}"), "{cursor} has no value here"),
        (MINIMAL.replace("{instance_ref}", "${nope}"), "${nope} is not given: add nope=…"),
        (MINIMAL.replace("'/state'", "'state'"), "line 4, `get.state`: a JSON pointer begins with a /"),
        (MINIMAL.replace("['off']", "['on']"), "line 7, `states.stopped`: the state \"on\" is named twice"),
        (MINIMAL.replace("stopped = ['off']", ""), "line 5, `states`: `stopped` is missing"),
        (MINIMAL.replace("stopped", "stoped"), "`stopped` is missing"),
        (format!("{MINIMAL}asleep = ['x']"), "line 8, `states.asleep`: there is no such key"),
        (format!("rate = 'fast'\n{MINIMAL}"), "line 1, `rate`: a rate is written 10/s"),
        (format!("{MINIMAL}[missing]\nstatus = 404"), "line 8, `missing`: `json` is missing"),
        (format!("{MINIMAL}[missing]\nstatus = 401\njson = ''\nequals = 'x'"), "never says that an instance is gone"),
        (format!("{MINIMAL}[restart]\n"), "line 8, `restart`: `steps` is missing"),
        (format!("{MINIMAL}[restart]\nsteps = [{{ method = 'GET', path = '/' }}]"), "a step is a POST, PUT or PATCH"),
        (
            format!(
                "{MINIMAL}[restart]\nsteps = [{{ method = 'POST', path = '/', accept = [409], superseded = [409] }}]"
            ),
            "`restart.steps[0].superseded`: a status cannot be in `accept` as well",
        ),
        (
            format!("{MINIMAL}[list]\npath = '/l?c={{cursor}}'\nitems = ''\nid = '/id'\nstate = '/s'"),
            "stands at `next`",
        ),
        (
            format!("{MINIMAL}[headers]\nA = 'x\ty'\n\"b c\" = 's3cret'"),
            "`headers.b c`: this is not a valid name of a header",
        ),
        ("base = 'https://h'".to_owned(), "it has neither [list] nor [get]"),
    ] {
        let error = refusal(&text);
        assert!(error.contains(expected), "{text}\ngave {error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}

#[test]
fn a_secret_that_no_header_can_hold_is_refused_without_being_shown() {
    let text = format!("headers = {{ A = 'Bearer ${{token}}' }}\n{MINIMAL}");
    let bad = Variables::of(&[("token", "s3cret\nx")]);
    let error = Preset::of(&text).read(None, &bad, Purpose::Engine).err().unwrap().to_string();
    assert!(error.contains("`headers.A`: its value holds a character that no header can hold"), "{error}");
    assert!(!error.contains("s3cret"));
}

#[test]
fn an_optional_header_and_an_optional_base_are_left_out() {
    let preset = Preset::built_in("molecule-core").unwrap();
    let names = |variables: &Variables| {
        let api = preset.read(Some("https://cp"), variables, Purpose::Engine).unwrap();
        let names: Vec<_> = api.get.unwrap().headers.iter().map(|(name, _)| name.to_string()).collect();
        (api.restart.map(|restart| restart.base), names)
    };
    assert_eq!(names(&variables()), (None, vec!["authorization".into()]));
    let all = Variables::of(&[("token", "t"), ("org", "o"), ("admin_token", "a"), ("server", "https://server/")]);
    let (base, names) = names(&all);
    assert_eq!((base.as_deref(), names.len()), (Some("https://server"), 3));
}
