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

/// What stands in a history is written by proxies, operators, platforms and engines, each of which may be hostile or at fault.
const HOSTILE_HISTORY: &str = r#"
    insert into defib.events (workspace_id, at, verdict_from, verdict_to, evidence)
    values ('w17', now() - interval '43 seconds', 'suspect', E'<script>alert("verdict")</script>\u202e\u200f' || repeat('v', 10000),
            jsonb_build_object('because', E'<script>alert("because")</script>\u061c\u2067' || repeat('e', 10000)));
    insert into defib.suspicions (workspace_id, reporter, reason, detail, reported_at, taken_at, taken_by, finding)
    values ('w17', E'<script>alert("reporter")</script>\u200f', E'<script>alert("reason")\u2067', repeat('d', 10000), now() - interval '42 seconds',
            now() - interval '41 seconds', E'<img src=x>\u202e', E'<script>alert("finding")\u0007');
    insert into defib.restarts (workspace_id, engine, container_id, started_at, attempt, epoch, verdict, evidence, claimed_by, claimed_at, finished_at, outcome, error)
    values ('w17', 'e1', E'<img src=x>\u202e', now(), 2, 3, 'dead', '{}', E'<script>alert("replica")\u200f', now() - interval '20 seconds',
            now() - interval '10 seconds', 'failed', E'<script>alert("outcome")</script>\u061c' || repeat('o', 10000));
    insert into defib.workspaces (id, name, status, engine) values ('on-it', E'\u2067name', 'online', E'<script>alert("engine")\u202e/\u200f');
"#;

/// The engine of that history, as it is written in an address.
const HOSTILE_ENGINE_ESCAPED: &str = "%3Cscript%3Ealert%28%22engine%22%29%E2%80%AE%2F%E2%80%8F";

#[tokio::test]
async fn hostile_texts_are_text_everywhere() -> Result<()> {
    let world = World::new(60, 3).await?;
    world.stage.db.another_connection().await?.batch_execute(HOSTILE_HISTORY).await?;
    eventually(SOON, "the picture has the hostile engine", async || {
        let page = world.page("/engines").await.map_err(|error| format!("{error:#}"))?;
        if page.contains("alert(&quot;engine&quot;)") { Ok(()) } else { Err(page) }
    })
    .await?;
    let of_it = format!("/workspaces/{HOSTILE_ESCAPED}");
    let engine = format!("/engines/{HOSTILE_ENGINE_ESCAPED}");
    for path in [
        "/",
        "/workspaces",
        "/engines",
        "/engines/e1",
        &engine,
        "/restarts",
        "/holds",
        "/workspaces/w17",
        "/workspaces/on-it",
        &of_it,
    ] {
        let page = world.page(path).await?;
        // What a form sends back is as it came, and is not shown.
        let mut parts = page.split(" value=\"");
        let shown =
            parts.next().into_iter().chain(parts.filter_map(|rest| Some(rest.split_once('"')?.1))).collect::<String>();
        for bad in [
            "<script>alert",
            "<img src=x",
            "<b>no space",
            "<bob@",
            "\u{202e}",
            "\u{200f}",
            "\u{61c}",
            "\u{2067}",
            "\u{7}",
        ] {
            ensure!(!shown.contains(bad), "{path} has {bad:?} as it came");
        }
        ensure!(page.len() < 100_000, "{path} has {} bytes", page.len());
        for attribute in ["title=\"", "data-note=\"", "aria-label=\""] {
            for value in page.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()) {
                ensure!(value.len() < 5_000, "{path} has a {attribute} of {} bytes: {value}", value.len());
            }
        }
    }
    let timeline = world.page("/workspaces/w17").await?;
    for told in ["alert(&quot;verdict&quot;)", "alert(&quot;reporter&quot;)", "alert(&quot;outcome&quot;)"] {
        ensure!(timeline.contains(told), "the timeline lacks {told}: {timeline}");
    }
    ensure!(world.page(&of_it).await?.contains("&lt;script&gt;alert(&quot;id&quot;)&lt;/script&gt;\\u{202e}/?#%"));
    ensure!(world.page("/").await?.contains(&format!("href=\"{of_it}\"")));
    Ok(())
}

/// Where a page leads, and what it loads: the values of all attributes that hold an address.
fn addresses(page: &str) -> Vec<&str> {
    ["href=\"", "src=\"", "action=\"", "data-events=\""]
        .iter()
        .flat_map(|attribute| page.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()))
        .collect()
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
    let of_it = format!("/workspaces/{HOSTILE_ESCAPED}");
    for path in [
        "/",
        "/workspaces",
        "/workspaces?q=agent&verdict=alive&engine=e1",
        "/workspaces/w17",
        &of_it,
        "/restarts",
        "/holds",
        "/engines",
        "/engines/e1",
        "/nothing",
        "/workspaces/nobody",
        "/engines/nowhere",
    ] {
        let below = world.whole(path, "X-Forwarded-Prefix: /ops/defib/\r\n").await?;
        let addresses = addresses(&below);
        ensure!(addresses.len() > 6, "{path}: {addresses:?}");
        for address in addresses {
            ensure!(address.starts_with("/ops/defib/") || address.starts_with('#'), "{path} leads to {address}");
        }
        ensure!(!below.contains("\r\nlocation:"), "{path} leads elsewhere: {below}");
    }
    let below = world.whole("/", "X-Forwarded-Prefix: /ops/defib/\r\n").await?;
    for part in [
        "href=\"/ops/defib/assets/style.css\"",
        "href=\"/ops/defib/workspaces/w17\"",
        "data-events=\"/ops/defib/api/v1/events\"",
    ] {
        ensure!(below.contains(part), "{part}: {below}");
    }
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
        // What is for Prometheus and for probes is there either way; no pass has been made over an engine that is never there.
        ensure!(daemon.get("/metrics").await?.0 == 200);
        for path in ["/healthz", "/readyz"] {
            let (status, body) = daemon.get(path).await?;
            ensure!(status != 404 && body.starts_with('{'), "{address} {ui} {path}: {status} {body}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_large_fleet_on_a_hundred_engines_is_drawn_small_and_not_read_anew_for_each_look() -> Result<()> {
    let stage = Stage::new(NO_ENGINE).await?.knob("POLL_INTERVAL", "1h");
    let world = World::on(stage, 20_000, 100).await?;
    let reads = async || -> Result<i64> {
        // The daemon's own reads have another name, and other tests have other databases on this server.
        let client = world.stage.db.another_connection().await?;
        let row = client
            .query_one(
                "select count(*) from pg_stat_activity
                  where datname = current_database() and application_name = 'defib page'",
                &[],
            )
            .await?;
        Ok(row.try_get(0)?)
    };
    eventually(SOON, "the daemon has its rows", async || {
        let metrics = world.daemon.metrics().await.map_err(|error| format!("{error:#}"))?;
        // However they ended: its engine does not answer.
        let is_pass = |name: &str| name.starts_with("defib_ticks_total{") && name.contains("scope=\"fleet\"");
        let passes: f64 = metrics.series().iter().filter(|(name, _)| is_pass(name)).map(|(_, count)| count).sum();
        if passes >= 1.0 { Ok(()) } else { Err(format!("{passes} passes")) }
    })
    .await?;

    // Nobody has looked yet: the first page has what the daemon watches, at once, and says that more is to come.
    let first = world.page("/").await?;
    for part in
        ["The fleet is being read.", "<b>20,002</b> so far", "<noscript><meta http-equiv=\"refresh\"", "Agent 17"]
    {
        ensure!(first.contains(part), "the first page lacks {part}: {first}");
    }
    // The API waits for the whole fleet, and then the page has it too.
    let (_, status) = world.json("/api/v1/status").await?;
    ensure!(status["total"] == 20_003 && status["counts"]["suspended"] == 1, "{status}");
    let fleet = world.page("/").await?;
    ensure!(fleet.contains("<b>20,003</b> in all") && !fleet.contains("http-equiv"), "{fleet}");
    ensure!(fleet.len() < 300_000, "{} bytes", fleet.len());
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
