//! TLS as an operator turns it on: the certificate is verified, and one that does not fit is told in words.

use anyhow::{Result, ensure};
use defib_testkit::{CertificateAuthority, PrivatePostgres, eventually};
use defib_tests::{Finished, SOON, Stage};

use crate::{A_WHILE, nobody_is_touched, only_this_one_is_restarted, stage_with};

const PASSWORD: &str = "hunter2-and-more";

/// The stage's database over TLS, with a password that must not be seen (the server asks for none).
fn verified(stage: Stage, server: &PrivatePostgres, host: &str, authority: &CertificateAuthority) -> Stage {
    let (port, database, root) = (server.port(), stage.db.name(), authority.root());
    let options = format!("sslmode=verify-full&sslrootcert={}", root.display());
    let url = format!("postgres://postgres:{PASSWORD}@{host}:{port}/{database}?{options}");
    stage.knob("DATABASE_URL", &url)
}

/// The one line of `check` about the database.
fn database_line(checked: &Finished) -> Result<&str> {
    let said = format!("{}{}", checked.stdout, checked.stderr);
    ensure!(!said.contains(PASSWORD), "the password is in {said}");
    let lines: Vec<&str> = checked.stdout.lines().filter(|line| line.contains("  database: ")).collect();
    ensure!(lines.len() == 1, "not one line about the database:\n{said}");
    ensure!(lines[0].starts_with("FAIL"), "{}", lines[0]);
    Ok(lines[0])
}

#[tokio::test]
async fn everything_is_read_and_written_over_verified_tls() -> Result<()> {
    let (server, authority) = (PrivatePostgres::start().await?, CertificateAuthority::new("the right one")?);
    server.serve_tls(&authority.issue("localhost")?).await?;
    let (stage, engine) = stage_with(&server, &["dies", "lives"]).await?;
    let stage = verified(stage, &server, "localhost", &authority);
    stage.defib(&["check"]).await?.with_code(0)?;
    let daemon = stage.run().await?;
    let in_the_clear = "select count(*) from pg_stat_activity join pg_stat_ssl using (pid)
                         where application_name like 'defib%' and not ssl";
    let encrypted = in_the_clear.replace("not ssl", "ssl");
    eventually(SOON, "both kinds of connections are there", async || match stage.db.count(&encrypted).await {
        Ok(count) if count >= 2 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    ensure!(stage.db.count(in_the_clear).await? == 0, "a connection is not encrypted");
    engine.exit("dies", 137)?;
    stage.db.suspect("dies").await?;
    only_this_one_is_restarted(&stage, &engine, "dies", 0).await?;
    daemon.stop(SOON).await?;
    ensure!(!daemon.program.transcript().contains(PASSWORD), "the password is in the log");
    Ok(())
}

#[tokio::test]
async fn a_wrong_certificate_authority_is_named_and_the_right_one_waited_for() -> Result<()> {
    let (server, wrong) = (PrivatePostgres::start().await?, CertificateAuthority::new("the wrong one")?);
    let right = CertificateAuthority::new("the right one")?;
    server.serve_tls(&wrong.issue("localhost")?).await?;
    let (stage, engine) = stage_with(&server, &["dies", "lives"]).await?;
    let stage = verified(stage, &server, "localhost", &right);

    let checked = stage.defib(&["check"]).await?.with_code(1)?;
    let line = database_line(&checked)?;
    for part in ["certificate", "not issued by", "sslrootcert", &right.root().display().to_string()] {
        ensure!(line.contains(part), "no {part:?} in: {line}");
    }
    let daemon = stage.start().await?;
    daemon.wait_until_unready("sslrootcert").await?;
    engine.exit("dies", 137)?;
    nobody_is_touched(&daemon, &engine, A_WHILE).await?;
    ensure!(!daemon.program.transcript().contains(PASSWORD), "the password is in the log");

    server.serve_tls(&right.issue("localhost")?).await?;
    daemon.wait_until_ready().await?;
    only_this_one_is_restarted(&stage, &engine, "dies", 0).await
}

#[tokio::test]
async fn a_certificate_for_another_host_is_told_with_both_names() -> Result<()> {
    let (server, authority) = (PrivatePostgres::start().await?, CertificateAuthority::new("the right one")?);
    server.serve_tls(&authority.issue("db.example")?).await?;
    let (stage, _engine) = stage_with(&server, &[]).await?;
    let stage = verified(stage, &server, "localhost", &authority);
    let checked = stage.defib(&["check"]).await?.with_code(1)?;
    let line = database_line(&checked)?;
    for part in ["certificate", "\"localhost\"", "\"db.example\"", "verify-full"] {
        ensure!(line.contains(part), "no {part:?} in: {line}");
    }
    let daemon = stage.start().await?;
    daemon.wait_until_unready("db.example").await
}

#[tokio::test]
async fn a_root_certificate_that_is_no_certificate_stops_the_start_with_its_name() -> Result<()> {
    let (server, authority) = (PrivatePostgres::shared().await?, CertificateAuthority::new("the right one")?);
    let (stage, _engine) = stage_with(server, &[]).await?;
    let stage = verified(stage, server, "localhost", &authority);
    std::fs::write(authority.root(), "not a certificate")?;
    for command in ["run", "check"] {
        let refused = stage.defib(&[command]).await?.with_code(2)?;
        let said = format!("{}{}", refused.stdout, refused.stderr);
        ensure!(said.contains(&authority.root().display().to_string()), "{command} does not name the file: {said}");
        ensure!(!said.contains(PASSWORD), "the password is in {said}");
    }
    Ok(())
}
