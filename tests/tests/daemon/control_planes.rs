//! Control planes: instances are judged by the rules of containers, and `defib check` tells what it understood, what is wrong with a preset, and
//! whom it trusts.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::scripted_control_plane::{ApiFault, Dialect};
use defib_testkit::{CertificateAuthority, Guardian, Program, ScriptedControlPlane, ScriptedEngine};
use defib_tests::{SOON, Stage, Workspace, throughout};

const TOKEN: &str = "sh4red-s3cret";

/// A preset of somebody's own. Its lines are counted below.
const PRESET: &str = "base = 'https://cp.example'
headers = { Authorization = 'Bearer ${token}' }
[get]
path = '/i/{instance_ref}'
state = '/state'
[states]
running = ['on']
stopped = ['off']
[restart]
steps = [{ method = 'POST', path = '/i/{instance_ref}/start' }]
";

#[tokio::test]
async fn state_by_state_it_is_shown_how_the_answers_were_understood() -> Result<()> {
    let server = ScriptedControlPlane::start(Dialect::Generic).await?;
    for (name, state) in [("i-1", "running"), ("i-2", "stopped"), ("i-3", "pending"), ("i-4", "dre\u{1b}aming")] {
        server.set(name, state);
    }
    let (stage, _engine) = stage(&format!("cp+{}?preset=generic&org=0rg-s3cret", server.address())).await?;
    for reference in ["i-1", "i-2", "i-3", "i-4", "i-9"] {
        instance(&stage, reference).await?;
    }
    let said = stage.defib(&["check"]).await?.stdout;
    for part in [
        "ok    engine cloud: control plane at http://127.0.0.1:",
        "(preset generic), 4 instances",
        "note  engine cloud: the state \"running\" is understood as running (",
        "note  engine cloud: the state \"stopped\" is understood as stopped (",
        "note  engine cloud: the state \"pending\" is understood as transitional (",
        "is understood as unknown (",
        "is not named in [states]: no evidence",
        "an answer without a state is understood as missing (1 such, for example \"i-9\")",
    ] {
        ensure!(said.contains(part), "no {part:?} in:\n{said}");
    }
    ensure!(!said.contains("s3cret") && !said.contains('\u{1b}'), "{said}");

    // A wrong token is said to be one, and the states are unknown and not bad.
    server.set_fault(Some(ApiFault::status(401)));
    let said = stage.defib(&["check"]).await?.with_code(1)?.stdout;
    ensure!(said.contains("FAIL  engine cloud: ") && said.contains("it answered 401 (is the token right?)"), "{said}");
    ensure!(!said.contains("s3cret") && !said.contains("understood as stopped"), "{said}");
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_preset_is_said_with_its_line_and_key_before_anything_is_asked() -> Result<()> {
    let files = Guardian::start()?;
    let path = files.directory().join("own.toml");
    let (engine, own) = (ScriptedEngine::start().await?, path.display());
    for (wrong, line, key, what) in [
        (PRESET.replace("'/state'", "'state'"), 5, "get.state", "a JSON pointer begins with a /"),
        (PRESET.replace("stopped =", "stoped ="), 6, "states", "`stopped` is missing"),
        (PRESET.replace("['off']", "['on']"), 8, "states.stopped", "the state \"on\" is named twice"),
        (PRESET.replace("'POST'", "'s3cret'"), 10, "restart.steps[0].method", "a step is a POST, PUT or PATCH"),
        (PRESET.replace("${token}", "${nope}"), 2, "headers.Authorization", "${nope} is not given: add nope="),
    ] {
        std::fs::write(&path, &wrong)?;
        let told = format!("preset {own}, line {line}, `{key}`: {what}");
        let stage = Stage::new(&engine.url()).await?;
        let of_engine = stage.engine("cloud", &format!("cp+file://{own}")).knob("ENGINE_TOKEN_CLOUD", TOKEN);
        for command in ["check", "run"] {
            let said = of_engine.defib(&[command]).await?.with_code(2)?;
            let all = format!("{}{}", said.stdout, said.stderr);
            ensure!(all.contains(&told) && !all.contains("s3cret"), "{command}: no {told:?} in:\n{all}");
        }
        if key.starts_with("restart") {
            let stage = Stage::new(&engine.url()).await?.knob("PLATFORM_URL", &format!("file://{own}"));
            let said = stage.knob("PLATFORM_TOKEN", TOKEN).defib(&["check"]).await?.with_code(2)?;
            let all = format!("{}{}", said.stdout, said.stderr);
            ensure!(all.contains("DEFIB_PLATFORM_URL: ") && all.contains(&told), "{all}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_authority_that_the_system_trusts_is_trusted_and_no_other() -> Result<()> {
    let authority = CertificateAuthority::new("ours")?;
    let server = ScriptedControlPlane::start_tls(Dialect::Generic, &authority.issue("localhost")?).await?;
    server.set("i-1", "running");
    let (stage, _engine) = stage(&format!("cp+{}?preset=generic", server.address())).await?;
    instance(&stage, "i-1").await?;
    let said = stage.defib(&["check"]).await?.with_code(1)?.stdout;
    ensure!(said.contains("FAIL  engine cloud: ") && said.contains("UnknownIssuer"), "{said}");
    ensure!(server.requests().is_empty(), "it was told the token: {:?}", server.requests());
    // The system's certificates are those of this file.
    let mut environment = stage.environment();
    environment.insert("SSL_CERT_FILE".to_owned(), authority.root().display().to_string());
    let program = Program::defib(["check"], &environment)?;
    program.wait_exit(SOON).await?;
    let said = program.stdout();
    ensure!(said.contains("the state \"running\" is understood as running"), "{said}");
    Ok(())
}

#[tokio::test]
async fn instances_are_judged_by_the_rules_of_containers() -> Result<()> {
    let server = ScriptedControlPlane::start(Dialect::Generic).await?;
    let (stage, _engine) = stage(&format!("cp+{}?preset=generic", server.address())).await?;
    let stage = stage.knob("POLL_INTERVAL", "1s").knob("HEARTBEAT_INTERVAL", "400ms").knob("RECENT_MIN", "1m");
    let stage = stage.knob("PROBE_SPACING", "1s").knob("MISSING_GRACE", "500ms").knob("SETTLE", "1h");
    for (reference, state) in
        [("lives", "running"), ("boots", "pending"), ("rests", "suspended"), ("odd", "dreaming"), ("dies", "running")]
    {
        server.set(reference, state);
        let id = format!("on-{reference}");
        stage.db.add(Workspace::new(&id).engine("cloud")).await?;
        is_on(&stage, &id, reference).await?;
    }
    instance(&stage, "gone").await?;
    let _daemon = stage.run().await?;
    let expected = [
        ("on-lives", None),
        ("on-boots", Some("settling")),
        ("on-rests", Some("frozen")),
        ("on-odd", Some("unknown")),
        ("on-gone", Some("dead")),
        ("on-dies", None),
    ];
    for (id, verdict) in expected {
        stage.db.wait_for_verdict(id, verdict).await?;
    }

    // What was alive a moment ago is not convicted by one look.
    server.set("dies", "stopped");
    let restart = stage.db.wait_for_restart("on-dies", "succeeded", SOON).await?;
    ensure!(restart.evidence["rule"] == "stopped_spaced", "{restart:#?}");
    ensure!(stage.db.history("on-dies").await?.contains(&"suspect".to_owned()), "{restart:#?}");
    let [asked] = server.restarts().try_into().map_err(|other| anyhow::anyhow!("{other:#?}"))?;
    ensure!(asked.path == "/instances/dies/start" && asked.headers["idempotency-key"] == restart.id.to_string());
    ensure!(stage.db.held("on-gone").await?.as_deref() == Some("cannot_recreate"));

    // The whole tenant answers 404, and then 503. That says nothing of anybody.
    for fault in [ApiFault::status(404), ApiFault::status(503)] {
        server.set_fault(Some(fault));
        for (id, _) in expected {
            stage.db.wait_for_verdict(id, Some("unknown")).await?;
        }
        throughout(Duration::from_secs(3), "nothing is asked for", async || match server.restarts().len() {
            1 => Ok(()),
            other => Err(format!("{other} restarts")),
        })
        .await?;
    }
    ensure!(stage.db.all_restarts().await?.len() == 1, "{:#?}", stage.db.all_restarts().await?);
    Ok(())
}

/// A fleet with one control plane beside its engine.
async fn stage(cloud: &str) -> Result<(Stage, ScriptedEngine)> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.engine("cloud", cloud);
    Ok((stage.knob("ENGINE_TOKEN_CLOUD", TOKEN), engine))
}

/// The workspace on this instance.
async fn instance(stage: &Stage, reference: &str) -> Result<()> {
    let id = format!("on-{reference}");
    stage.db.add(Workspace::new(&id).engine("cloud").silent()).await?;
    is_on(stage, &id, reference).await
}

async fn is_on(stage: &Stage, id: &str, reference: &str) -> Result<()> {
    let sql = format!("update defib.workspaces set kind = 'instance', instance_ref = '{reference}' where id = '{id}'");
    stage.db.execute(&sql).await
}
