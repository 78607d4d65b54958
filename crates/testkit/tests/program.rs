//! Running a program: what it gets, what can be read of it, how it ends.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use defib_testkit::process::Signal;
use defib_testkit::program::{Program, Stream};

const SOON: Duration = Duration::from_secs(10);

fn shell(script: &str) -> Result<Program> {
    Program::start("/bin/sh", ["-c", script], &BTreeMap::from([("GIVEN".to_owned(), "yes".to_owned())]))
}

#[tokio::test]
async fn a_program_gets_the_given_environment_and_no_other() -> Result<()> {
    let program = shell("env; exit 3")?;
    assert_eq!(program.wait_exit(SOON).await?.code(), Some(3));
    let output = program.stdout();
    assert!(output.contains("GIVEN=yes"), "{output}");
    assert!(!output.contains("CARGO") && !output.contains("DEFIB_"), "{output}");
    Ok(())
}

#[tokio::test]
async fn its_lines_can_be_read_while_it_runs() -> Result<()> {
    let program = shell("trap 'echo told; exit 0' TERM; echo out; echo err >&2; while :; do sleep 0.01; done")?;
    assert_eq!(program.wait_for_line("out", SOON).await?.stream, Stream::Out);
    assert_eq!(program.wait_for_line("err", SOON).await?.stream, Stream::Err);
    assert!(program.exit_status().is_none());
    let never = program.wait_for_line("told", Duration::from_millis(50)).await.unwrap_err().to_string();
    assert!(never.contains("last seen: it wrote") && never.contains("| out"), "{never}");
    program.signal(Signal::TERM)?;
    program.wait_exit(SOON).await?;
    assert_eq!(program.stdout(), "out\ntold\n");
    Ok(())
}

#[tokio::test]
async fn waiting_for_a_line_ends_with_the_program() -> Result<()> {
    let program = shell("echo something else; exit 1")?;
    let error = program.wait_for_line("ready", Duration::from_secs(600)).await.unwrap_err().to_string();
    assert!(error.contains("ended (exit status: 1)") && error.contains("something else"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_dropped_program_is_killed_with_its_children() -> Result<()> {
    let program = shell("sleep 600 & echo child $!; wait")?;
    let line = program.wait_for_line("child", SOON).await?.text;
    drop(program);
    assert!(!defib_testkit::process::is_alive(line.trim_start_matches("child ")));
    Ok(())
}
