//! The pages as the server draws them, without a browser.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::eventually;
use defib_tests::{SOON, Stage};
use tokio::time::Instant;

use crate::world::{HOSTILE_ESCAPED, NO_ENGINE, World};

#[tokio::test]
async fn each_place_shows_what_is_said() -> Result<()> {
    let world = World::new(60, 3).await?;
    for (path, parts) in [
        (
            "/",
            vec![
                "5 workspaces in trouble",
                "href=\"/workspaces/w17\"",
                "storm for",
                "gives no answer: <bdi>timed_out",
                "1 in trouble</b> of ",
            ],
        ),
        ("/workspaces?q=AGENT+17", vec!["1 workspace</b>", "href=\"/workspaces/w17\"", "held: <bdi>backoff"]),
        ("/workspaces?verdict=dead", vec!["href=\"/workspaces/w17\""]),
        ("/workspaces?q=nemo", vec!["No workspace matches"]),
        (
            "/workspaces/w17",
            vec![
                "heartbeat stale for 80 s",
                "The same in a terminal",
                "memory limit is being raised",
                "suspect → dead",
                "killed by the kernel for its memory",
                "out of memory</bdi>",
                "Evidence",
            ],
        ),
        ("/workspaces/w1", vec!["alive", "never in doubt"]),
        ("/workspaces/on-an-engine-of-nobody", vec!["not judged", "is in no replica's DEFIB_ENGINES"]),
        ("/restarts", vec!["1 restart under way", "Exhausted", "no space left on device", "500 ms"]),
        ("/holds", vec!["2 holds", "kernel upgrade", "defib release --engine "]),
        ("/engines", vec!["5 engines", "enforces", "timed_out"]),
        ("/engines/e1", vec!["aria-label=\"w17, dead\"", "epoch 3"]),
    ] {
        // The page also shows what the daemon itself says of its engine, which comes a moment after its start.
        let page = eventually(SOON, &format!("{path} says {parts:?}"), async || {
            let page = world.page(path).await.map_err(|error| format!("{error:#}"))?;
            if parts.iter().all(|part| page.contains(part)) { Ok(page) } else { Err(page) }
        })
        .await?;
        ensure!(page.starts_with("<!DOCTYPE html><html lang=\"en\">") && !page.contains("style=\""), "{path}");
    }
    for path in ["/nothing", "/workspaces/nobody", "/engines/nowhere"] {
        let (status, body) = world.daemon.get(path).await?;
        ensure!(status == 404 && body.contains("<h1>"), "{path} answers {status}: {body}");
    }
    Ok(())
}

#[tokio::test]
async fn hostile_texts_are_text_everywhere() -> Result<()> {
    let world = World::new(60, 3).await?;
    let of_it = format!("/workspaces/{HOSTILE_ESCAPED}");
    for path in ["/", "/workspaces", "/engines/e1", "/restarts", "/holds", "/workspaces/w17", of_it.as_str()] {
        let page = world.page(path).await?;
        for bad in ["<script>alert", "<img src=x", "<b>no space", "<bob@", "\u{202e}", "\u{7}"] {
            ensure!(!page.contains(bad), "{path} has {bad:?} as it came");
        }
        ensure!(page.len() < 60_000, "{path} has {} bytes", page.len());
    }
    ensure!(world.page(&of_it).await?.contains("&lt;script&gt;alert(&quot;id&quot;)&lt;/script&gt;\\u{202e}/?#%"));
    ensure!(world.page("/").await?.contains(&format!("href=\"{of_it}\"")));
    Ok(())
}

#[tokio::test]
async fn the_headers_let_nothing_else_in_and_a_prefix_is_honoured() -> Result<()> {
    let world = World::new(60, 3).await?;
    for path in ["/", "/assets/style.css", "/assets/script.js", "/assets/icon.svg", "/nothing"] {
        let answer = world.whole(path, "").await?;
        for header in [
            "content-security-policy: default-src 'self';",
            "x-content-type-options: nosniff",
            "x-frame-options: DENY",
            "referrer-policy: same-origin",
        ] {
            ensure!(answer.contains(header), "{path} lacks {header}:\n{answer}");
        }
    }
    let below = world.whole("/", "X-Forwarded-Prefix: /ops/defib/\r\n").await?;
    ensure!(
        below.contains("href=\"/ops/defib/assets/style.css\"") && below.contains("href=\"/ops/defib/workspaces/w17\"")
    );
    ensure!(
        below.contains("data-events=\"/ops/defib/api/v1/events\"") && !below.contains("href=\"/workspaces"),
        "{below}"
    );
    let evil = world.whole("/", "X-Forwarded-Prefix: //evil.example\r\n").await?;
    ensure!(evil.contains("href=\"/assets/style.css\"") && !evil.contains("evil.example"));
    Ok(())
}

/// A site of somebody else's may let its own name point to this server, and would then be allowed to read it (DNS rebinding).
#[tokio::test]
async fn by_the_name_of_another_site_nothing_of_the_fleet_is_told() -> Result<()> {
    let world = World::new(60, 3).await?;
    let fleets = ["/", "/workspaces/w17", "/nothing", "/assets/style.css", "/api/v1/status", "/api/v1/events"];
    for path in fleets {
        let answer = world.whole_of("rebound.example.com:9464", path, "").await?;
        ensure!(answer.starts_with("HTTP/1.0 421 ") && answer.contains("DEFIB_UI_HOSTS"), "{path}: {answer}");
        ensure!(!answer.contains("w17"), "{path}: {answer}");
    }
    for path in ["/metrics", "/healthz", "/readyz"] {
        let answer = world.whole_of("defib.monitoring.svc:9464", path, "").await?;
        ensure!(!answer.starts_with("HTTP/1.0 421 "), "{path}: {answer}");
    }
    let port = world.daemon.address().port();
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), "[::1]".to_owned(), "defib".to_owned()] {
        let answer = world.whole_of(&host, "/", "").await?;
        ensure!(answer.starts_with("HTTP/1.0 200 "), "{host}: {answer}");
    }

    let named = [("DEFIB_UI_HOSTS", "defib.example.com,*.ops.example.com"), ("DEFIB_REPLICA_ID", "named")];
    let named = World { daemon: world.stage.start_with("named", &named).await?, stage: world.stage };
    for (host, status) in [("defib.example.com", 200), ("eu.ops.example.com", 200), ("rebound.example.com", 421)] {
        let answer = named.whole_of(host, "/assets/style.css", "").await?;
        ensure!(answer.starts_with(&format!("HTTP/1.0 {status} ")), "{host}: {answer}");
    }
    let bad = named.stage.knob("UI_HOSTS", "https://defib.example.com");
    let refused = bad.defib(&["run"]).await?.with_code(2)?;
    ensure!(
        refused.stderr.contains("DEFIB_UI_HOSTS: https://defib.example.com is not the name of a host"),
        "{}",
        refused.stderr
    );
    Ok(())
}

#[tokio::test]
async fn who_listens_to_others_has_no_page_unless_it_is_asked_for() -> Result<()> {
    let stage = Stage::new(NO_ENGINE).await?;
    for (address, ui, is_there) in [
        ("127.0.0.1:0", "auto", true),
        ("0.0.0.0:0", "auto", false),
        ("0.0.0.0:0", "on", true),
        ("127.0.0.1:0", "off", false),
    ] {
        let daemon = stage.start_with("r", &[("DEFIB_LISTEN_ADDR", address), ("DEFIB_UI", ui)]).await?;
        for path in ["/", "/holds", "/api/v1/status", "/assets/style.css"] {
            let (status, body) = daemon.get(path).await?;
            ensure!((status == 200) == is_there, "{address} {ui} {path}: {status}");
            if !is_there {
                ensure!(status == 404 && body.trim().lines().count() == 1 && body.contains("DEFIB_UI=on"), "{body}");
            }
        }
        ensure!(daemon.get("/metrics").await?.0 == 200);
    }
    Ok(())
}

#[tokio::test]
async fn a_large_fleet_on_a_hundred_engines_is_drawn_small_and_not_read_anew_for_each_look() -> Result<()> {
    let stage = Stage::new(NO_ENGINE).await?.knob("POLL_INTERVAL", "1h");
    let world = World::on(stage, 20_000, 100).await?;
    let reads = async || -> Result<i64> {
        // The daemon's own reads have another name.
        let client = world.stage.db.another_connection().await?;
        let row = client
            .query_one("select count(*) from pg_stat_activity where application_name = 'defib page'", &[])
            .await?;
        Ok(row.try_get(0)?)
    };
    eventually(SOON, "the fleet is read", async || {
        world.page("/").await.map(drop).map_err(|error| format!("{error:#}"))
    })
    .await?;
    let fleet = world.page("/").await?;
    ensure!(fleet.contains("20,003") && fleet.len() < 300_000, "{} bytes", fleet.len());
    ensure!(world.page("/engines/e57").await?.len() < 60_000);
    let begun = Instant::now();
    for _ in 0..20 {
        world.page("/").await?;
    }
    // An unoptimised program among others on a busy machine: a read of the fleet for each look would take ten times as long.
    ensure!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    ensure!(reads().await? <= 3, "the page has connections of its own, three at most");
    Ok(())
}
