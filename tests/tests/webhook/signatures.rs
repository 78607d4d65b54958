//! The story of one workspace, as the receiver gets it, and whether somebody else's library accepts it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use defib_testkit::scripted_control_plane::ApiRequest;
use defib_testkit::{ScriptedEngine, WebhookReceiver};
use defib_tests::{SOON, Workspace, container};
use serde_json::json;

use crate::{SECRETS, body, stage, wait_until_told, wait_until_wanted};

#[tokio::test]
async fn a_restart_and_its_recovery_are_told_with_signatures_that_the_standards_own_library_accepts() -> Result<()> {
    let (engine, receiver) = (ScriptedEngine::start().await?, WebhookReceiver::start().await?);
    let stage = stage(&engine, &receiver).await?;
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1").silent()).await?;
    let daemon = stage.run().await?;
    wait_until_wanted(&stage).await?;
    stage.db.wait_for_verdict("w1", Some("silent")).await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    stage.db.beat("w1").await?;
    wait_until_told(&receiver, &["restart.succeeded w1", "workspace.recovered w1"], SOON).await?;

    let taken = receiver.taken();
    let restarted = body(&taken[0])?;
    ensure!(
        restarted["data"]["engine"] == "default"
            && restarted["data"]["attempt"] == 1
            && restarted["timestamp"].is_string(),
        "{restarted:#}"
    );
    for message in &taken {
        let tampered = ApiRequest { body: message.body.replace("w1", "w2"), ..message.clone() };
        for secret in SECRETS {
            ensure!(verdict(secret, message)? == "verified", "{message:#?}");
            ensure!(verdict(secret, &tampered)?.starts_with("refused"), "a changed body is accepted");
        }
        ensure!(
            verdict("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz", message)?.starts_with("refused"),
            "another secret is accepted"
        );
    }
    daemon.wait_for_metric("defib_webhook_deliveries_total{result=\"delivered\"}", |count| count == 2.0, SOON).await?;
    let log = daemon.program.stderr();
    ensure!(!log.contains("T0P-S3CRET") && !log.contains("whsec_"), "a secret is in the log");
    let status = stage.defib(&["status"]).await?.with_code(0)?.stdout;
    ensure!(status.contains("webhook 127.0.0.1:") && status.contains("none waiting"), "{status}");
    Ok(())
}

#[tokio::test]
async fn a_chat_gets_a_sentence() -> Result<()> {
    let (engine, receiver) = (ScriptedEngine::start().await?, WebhookReceiver::start().await?);
    let stage = stage(&engine, &receiver).await?.knob("WEBHOOK_FORMAT", "slack").without_knob("WEBHOOK_SECRET");
    stage.defib(&["notify", "test"]).await?.with_code(0)?;
    let taken = receiver.taken();
    ensure!(body(&taken[0])? == json!({ "text": "defib: this is a test; messages arrive" }), "{taken:#?}");
    Ok(())
}

/// What the library says of a message.
fn verdict(secret: &str, message: &ApiRequest) -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/webhook/verify.py");
    let mut python = Command::new("python3")
        .args([
            "-I",
            "-B",
            "-c",
            "import runpy, sys; sys.path.insert(0, sys.argv[1]); runpy.run_path(sys.argv[2], run_name='__main__')",
        ])
        .arg(script.parent().context("it is in a folder")?)
        .arg(&script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("python3 cannot be started; deploy/dev/install.sh installs it")?;
    let line = json!({ "secret": secret, "headers": message.headers, "body": message.body });
    writeln!(python.stdin.take().context("its input is a pipe")?, "{line}")?;
    let output = python.wait_with_output()?;
    ensure!(output.status.success(), "verify.py failed");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
