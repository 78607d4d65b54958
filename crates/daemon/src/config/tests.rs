use super::*;

/// The configuration made of the default environment and `extra`.
fn configured(flags: &[&str], extra: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let environment: Vec<(OsString, OsString)> =
        extra.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    // Clap would read this process's environment; the values are put where it would have put them.
    let command =
        KNOBS.iter().fold(Command::new("test"), |command, knob| command.arg(argument(knob).env(None::<&str>)));
    let matches = command.try_get_matches_from(std::iter::once("test").chain(flags.iter().copied())).expect("flags");
    let mut raw = RawKnobs::from_arg_matches(&matches).expect("knobs");
    for (name, value) in &environment {
        let name = name.to_string_lossy();
        if let Some(knob) = KNOBS.iter().find(|knob| knob.variable() == name) {
            raw.0.entry(knob.name).or_insert(Given { value: value.clone(), by_flag: false });
        }
    }
    raw.check(&environment).map_err(|faults| faults.0)
}

const DATABASE: (&str, &str) = ("DEFIB_DATABASE_URL", "postgres://defib:hunter2@db/platform");

#[test]
fn the_defaults_of_the_knobs_are_those_of_the_policy_and_work_together() {
    let config = configured(&[], &[DATABASE]).expect("valid");
    assert_eq!(config.policy, Settings::default());
    assert_eq!(config.engines[0].0.as_str(), "default");
    assert_eq!(config.engines[0].1.to_string(), "unix:///var/run/docker.sock");
    assert_eq!(config.watched_statuses, ["online", "degraded", "offline"]);
    assert_eq!(config.listen_addr.to_string(), "127.0.0.1:9464");
}

#[test]
fn every_fault_is_named_and_all_at_once() {
    let faults = configured(
        &[],
        &[
            ("DEFIB_POLL_INTERVAL", "soon"),
            ("DEFIB_DEAD_THRESHOLD", "1"),
            ("DEFIB_STORM_FRACTION", "2"),
            ("DEFIB_MODE", "kill"),
            ("DEFIB_ENGINES", "a=unix:///x,a=unix:///y,b,c=ftp://z"),
            ("DEFIB_POLL_INTERVALL", "5s"),
            ("DEFIB_LISTEN_ADDR", "nowhere"),
            ("DEFIB_PROBE_TTL", "999d"),
            ("DEFIB_LOG", "info,=x="),
        ],
    )
    .expect_err("invalid");
    let named = |part: &str| assert!(faults.iter().any(|fault| fault.contains(part)), "{part}: {faults:#?}");
    named("DEFIB_DATABASE_URL is not set");
    named("DEFIB_POLL_INTERVAL=soon is not a duration");
    named("DEFIB_DEAD_THRESHOLD=1 is not a whole number from 2");
    named("DEFIB_STORM_FRACTION=2");
    named("DEFIB_MODE=kill is not one of: enforce, observe");
    named("the engine a is named twice");
    named("b is not name=url");
    named("engine c");
    named("DEFIB_POLL_INTERVALL is not a variable of defib: did you mean DEFIB_POLL_INTERVAL?");
    named("DEFIB_LISTEN_ADDR=nowhere");
    named("DEFIB_PROBE_TTL=999d is out of bounds: 100ms to 1d");
    named("DEFIB_LOG");
}

#[test]
fn a_log_level_that_does_not_exist_is_refused_and_a_level_of_one_module_is_not() {
    let log = |filter: &str| configured(&[], &[DATABASE, ("DEFIB_LOG", filter)]);
    for filter in ["warning", "verbose", "info,debgu", "defib"] {
        let faults = log(filter).expect_err(filter);
        let word = filter.rsplit(',').next().expect("a word");
        let told = format!("DEFIB_LOG={filter}: {word} is no level. Write off, error, warn, info, debug or trace");
        assert!(faults.len() == 1 && faults[0].starts_with(&told), "{faults:?}");
    }
    for filter in
        ["info", "WARN", "off", "3", "info,defib_engine=debug", "info,defib_daemon[span{a=1}]=trace", " debug , "]
    {
        assert!(log(filter).is_ok(), "{filter}");
    }
}

#[test]
fn combinations_that_cannot_work_are_refused() {
    let faults = configured(&[], &[DATABASE, ("DEFIB_DEAD_WINDOW", "1s")]).expect_err("impossible");
    assert!(faults[0].contains("DEFIB_DEAD_WINDOW"), "{faults:?}");
}

#[test]
fn a_retention_that_forgets_what_the_back_off_needs_is_refused() {
    let needed = Settings::default().attempts_horizon().as_secs();
    let retention = |seconds: u64| configured(&[], &[DATABASE, ("DEFIB_RETENTION", &format!("{seconds}s"))]);
    let faults = retention(needed - 1).expect_err("too short");
    assert!(
        faults.len() == 1 && faults[0].starts_with("DEFIB_RETENTION=1h 9m 59s is shorter than 1h 10m"),
        "{faults:?}"
    );
    assert!(retention(needed).is_ok());
}

#[test]
fn a_flag_wins_over_a_variable_and_an_empty_variable_is_unset() {
    let both = configured(&["--poll-interval", "2s"], &[DATABASE, ("DEFIB_POLL_INTERVAL", "9s")]).expect("valid");
    assert_eq!(both.policy.poll_interval, Duration::from_secs(2));
    let bad = configured(&["--poll-interval", "x"], &[DATABASE]).expect_err("bad flag");
    assert!(bad[0].starts_with("--poll-interval=x"), "{bad:?}");
}

#[test]
fn a_secret_comes_from_a_file_and_is_never_printed() {
    let file = std::env::temp_dir().join(format!("defib-secret-{}", std::process::id()));
    std::fs::write(&file, "postgres://defib:hunter2@db/platform\n").expect("a temporary file");
    let path = file.to_string_lossy().into_owned();
    let config = configured(&[], &[("DEFIB_DATABASE_URL_FILE", &path)]).expect("valid");
    assert!(config.database_url.expose().ends_with("/platform"));
    assert!(!format!("{config:?}").contains("hunter2"));
    let both = configured(&[], &[DATABASE, ("DEFIB_DATABASE_URL_FILE", &path)]).expect_err("both");
    assert!(both[0].contains("both set") && !both.concat().contains("hunter2"), "{both:?}");
    std::fs::remove_file(&file).expect("the file of this test");
    let gone = configured(&[], &[("DEFIB_DATABASE_URL_FILE", &path)]).expect_err("gone");
    assert!(gone[0].contains("cannot be read"), "{gone:?}");
}

#[test]
fn docker_host_is_the_default_engine() {
    let config = configured(&[], &[DATABASE, ("DOCKER_HOST", "tcp://127.0.0.1:2375")]).expect("valid");
    assert_eq!(config.engines[0].1.to_string(), "tcp://127.0.0.1:2375");
}

#[test]
fn kubernetes_service_links_are_not_misspelt_knobs() {
    let links =
        [("DEFIB_SERVICE_HOST", "10.0.0.1"), ("DEFIB_PORT_9464_TCP_ADDR", "10.0.0.1"), ("DEFIB_PORT", "tcp://x")];
    assert!(configured(&[], &[&[DATABASE][..], &links].concat()).is_err());
    let there = [&[DATABASE, ("KUBERNETES_SERVICE_HOST", "10.0.0.1")][..], &links].concat();
    assert!(configured(&[], &there).is_ok());
    for misspelt in [("DEFIB_LISTEN_PORT", "9000"), ("DEFIB_PORT_RANGE", "1")] {
        let faults = configured(&[], &[&there[..], &[misspelt]].concat()).expect_err("no link of a service");
        assert!(faults.concat().contains(misspelt.0), "{faults:?}");
    }
}

#[test]
fn the_token_of_a_control_plane_is_named_after_its_engine() {
    let engines = ("DEFIB_ENGINES", "default=unix:///x,eu-1.cloud=cp+https://h?preset=coder");
    let config = configured(&[], &[DATABASE, engines, ("DEFIB_ENGINE_TOKEN_EU_1_CLOUD", "hunter3\n")]).expect("valid");
    assert_eq!(config.engine_tokens["eu-1.cloud"].expose(), "hunter3");
    assert!(!format!("{config:?}").contains("hunter3"));
    for (variable, expected) in [
        ("DEFIB_ENGINE_TOKEN_DEFAULT", "DEFIB_ENGINE_TOKEN_DEFAULT belongs to no control plane in DEFIB_ENGINES"),
        ("DEFIB_ENGINE_TOKEN_EU_1_CLOUD_FILE", "names a file that cannot be read (/nowhere/at/all)"),
    ] {
        let faults = configured(&[], &[DATABASE, engines, (variable, "/nowhere/at/all")]).expect_err("invalid");
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{faults:#?}");
    }
    let both =
        [DATABASE, engines, ("DEFIB_ENGINE_TOKEN_EU_1_CLOUD", "a"), ("DEFIB_ENGINE_TOKEN_EU_1_CLOUD_FILE", "/b")];
    let faults = configured(&[], &both).expect_err("invalid");
    assert!(faults.iter().any(|fault| fault.contains("are both set: keep one")), "{faults:#?}");
}

#[test]
fn restarts_by_the_platform_need_its_address() {
    let platform = ("DEFIB_PLATFORM_URL", "https://server?preset=molecule-core&org=hunter2");
    let (by, token) = (("DEFIB_RESTART_BY", "platform"), ("DEFIB_PLATFORM_TOKEN", "hunter2"));
    let config = configured(&[], &[DATABASE, platform, by, token]).expect("valid");
    assert_eq!(config.restart_by, RestartBy::Platform);
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(configured(&[], &[DATABASE, platform]).expect("valid").restart_by, RestartBy::Engine);
    for (given, said) in [(by, "DEFIB_RESTART_BY=platform needs DEFIB_PLATFORM_URL"), (token, "DEFIB_PLATFORM_TOKEN")] {
        let faults = configured(&[], &[DATABASE, given]).expect_err("invalid");
        assert!(faults.len() == 1 && faults[0].starts_with(said), "{faults:?}");
    }
}
