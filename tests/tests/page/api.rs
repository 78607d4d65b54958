//! `/api/v1` says what `docs/openapi.yaml` says it does: every path, every status, every field.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use defib_testkit::{ScriptedEngine, eventually};
use defib_tests::{SOON, Stage, Workspace, container};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::world::{HOSTILE, HOSTILE_ESCAPED, World};

const OPENAPI: &str = include_str!("../../../docs/openapi.yaml");

/// The file, and which of its answers were held against real ones.
struct Contract {
    file: Value,
    seen: BTreeSet<String>,
}

impl Contract {
    fn read() -> Result<Self> {
        let file: Value = serde_saphyr::from_str(OPENAPI).context("docs/openapi.yaml")?;
        Ok(Self { file, seen: BTreeSet::new() })
    }

    /// What is wrong with a value of a schema of the file.
    fn faults(&self, schema: &Value, value: &Value) -> Result<Vec<String>> {
        let mut whole = schema.clone();
        whole["components"] = self.file["components"].clone();
        let schema = jsonschema::draft202012::options().build(&whole).context("a schema of docs/openapi.yaml")?;
        Ok(schema.iter_errors(value).map(|fault| format!("{}: {fault}", fault.instance_path())).collect())
    }

    fn named(&self, name: &str, value: &Value) -> Result<()> {
        let faults = self.faults(&json!({ "$ref": format!("#/components/schemas/{name}") }), value)?;
        ensure!(faults.is_empty(), "{name}: {faults:#?}\n{value:#}");
        Ok(())
    }

    /// Holds an answer against what the file says of this path and status.
    fn holds(&mut self, path: &str, status: u16, value: &Value) -> Result<()> {
        let mut answer = &self.file["paths"][path]["get"]["responses"][status.to_string()];
        ensure!(!answer.is_null(), "{path} answers {status}, which is not described: {value}");
        if let Some(reference) = answer["$ref"].as_str() {
            answer = self.file.pointer(reference.trim_start_matches('#')).context("a $ref")?;
        }
        let kind = if status == 200 { "application/json" } else { "application/problem+json" };
        let faults = self.faults(&answer["content"][kind]["schema"], value)?;
        ensure!(faults.is_empty(), "{path} {status}: {faults:#?}\n{value:#}");
        self.seen.insert(format!("{path} {status}"));
        Ok(())
    }
}

#[tokio::test]
async fn every_answer_is_as_the_openapi_file_says() -> Result<()> {
    let world = World::new(60, 3).await?;
    let mut contract = Contract::read()?;
    let hostile = format!("/workspaces/{HOSTILE_ESCAPED}");
    for (path, described, status) in [
        ("/status", "/status", 200),
        ("/workspaces", "/workspaces", 200),
        ("/workspaces?verdict=not-judged&limit=1", "/workspaces", 200),
        ("/workspaces?troubled=true&engine=e1&q=agent", "/workspaces", 200),
        ("/workspaces?limit=0", "/workspaces", 400),
        ("/workspaces?limit=many", "/workspaces", 400),
        ("/workspaces?verdict=deaf", "/workspaces", 400),
        ("/workspaces?engine=e99", "/workspaces", 400),
        ("/workspaces/w17", "/workspaces/{id}", 200),
        ("/workspaces/w1", "/workspaces/{id}", 200),
        ("/workspaces/stopped-by-hand", "/workspaces/{id}", 200),
        (&hostile, "/workspaces/{id}", 200),
        ("/workspaces/nobody", "/workspaces/{id}", 404),
        ("/restarts", "/restarts", 200),
        ("/restarts?limit=1001", "/restarts", 400),
        ("/restarts?after=x", "/restarts", 400),
        ("/workspaces/nobody%00", "/workspaces/{id}", 404),
        ("/holds", "/holds", 200),
        ("/engines", "/engines", 200),
    ] {
        let (answered, value) = world.json(&format!("/api/v1{path}")).await?;
        ensure!(answered == status, "{path} answers {answered}: {value}");
        contract.holds(described, status, &value)?;
    }
    let (_, value) = world.json("/api/v1/workspaces?verdict=deaf").await?;
    ensure!(value["detail"].as_str().is_some_and(|why| why.contains("did you mean dead?")), "{value}");
    for (path, status) in [("/api/v1/nothing", 404), ("/api/v1/workspaces/%FF", 400)] {
        let (answered, value) = world.json(path).await?;
        ensure!(answered == status, "{path} answers {answered}");
        contract.named("Problem", &value)?;
    }
    // Every refusal has this form, also outside of what is described.
    for (request, status) in [
        ("GET /api/v1/nothing", 404),
        ("GET /api/v1", 404),
        ("GET /api/v1/", 404),
        ("GET /api/v2/status", 404),
        ("POST /api/v1/status", 405),
        ("DELETE /api/v1/workspaces/w1", 405),
        ("PUT /api/v1/nothing", 404),
        ("GET /api/v1/workspaces?limit=9999999999999999999999", 400),
        ("GET /api/v1/workspaces/%FF", 400),
        ("GET /api/v1/workspaces/a/b", 404),
    ] {
        let answer = world.answer(request, "defib", "").await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
        ensure!(head.starts_with(&format!("HTTP/1.0 {status} ")), "{request}: {answer}");
        ensure!(head.contains("content-type: application/problem+json"), "{request}: {answer}");
        let problem: Value = serde_json::from_str(body).with_context(|| answer.clone())?;
        contract.named("Problem", &problem)?;
        ensure!(problem["status"] == status, "{request}: {problem}");
    }

    // Asked by the name of another site, every path refuses.
    let described: Vec<String> = contract.file["paths"].as_object().context("paths")?.keys().cloned().collect();
    for path in &described {
        let answer =
            world.whole_of("rebound.example.com", &format!("/api/v1{}", path.replace("{id}", "w1")), "").await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
        ensure!(head.starts_with("HTTP/1.0 421 ") && head.contains("application/problem+json"), "{answer}");
        contract.holds(path, 421, &serde_json::from_str(body)?)?;
    }

    // The database goes: every path says so in the same words, but the stream, which has told of it already.
    world.stage.db.another_connection().await?.batch_execute("alter schema defib rename to away").await?;
    for path in described.iter().filter(|path| *path != "/events") {
        eventually(SOON, "no fleet, no answer", async || {
            let (status, value) = world
                .json(&format!("/api/v1{}", path.replace("{id}", "w1")))
                .await
                .map_err(|error| format!("{error:#}"))?;
            if status == 503 { Ok(()) } else { Err(format!("{path} answers {status}: {value}")) }
        })
        .await?;
        let (status, value) = world.json(&format!("/api/v1{}", path.replace("{id}", "w1"))).await?;
        contract.holds(path, status, &value)?;
    }

    let mut wanted = BTreeSet::new();
    for (path, item) in
        contract.file["paths"].as_object().context("paths")?.iter().filter(|(path, _)| *path != "/events")
    {
        let responses = item["get"]["responses"].as_object().context("responses")?;
        wanted.extend(responses.keys().map(|status| format!("{path} {status}")));
    }
    wanted.insert("/events 421".to_owned());
    ensure!(contract.seen == wanted, "described and never answered: {:?}", wanted.difference(&contract.seen));
    Ok(())
}

#[tokio::test]
async fn pages_by_key_have_everybody_once_and_filters_count_right() -> Result<()> {
    let world = World::new(60, 3).await?;
    let (mut ids, mut after) = (Vec::new(), String::new());
    loop {
        let (_, page) = world.json(&format!("/api/v1/workspaces?limit=7{after}")).await?;
        ensure!(page["total"] == 63, "{page}");
        let rows = page["workspaces"].as_array().context("rows")?;
        ids.extend(rows.iter().map(|row| row["workspace_id"].as_str().unwrap_or_default().to_owned()));
        match page["next"].as_str() {
            Some(HOSTILE) => after = format!("&after={HOSTILE_ESCAPED}"),
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    ensure!(ids.len() == 63 && ids.iter().collect::<BTreeSet<_>>().len() == 63, "{ids:?}");
    let place = |id: &str| ids.iter().position(|known| known == id);
    ensure!(place("w2") < place("w10"), "natural order: {ids:?}");

    let (_, status) = world.json("/api/v1/status").await?;
    let counted: u64 = status["counts"].as_object().context("counts")?.values().filter_map(Value::as_u64).sum();
    ensure!(status["total"] == 63 && counted == 63, "{status}");
    for word in ["dead", "exhausted", "busy", "suspended", "not-judged"] {
        let (_, page) = world.json(&format!("/api/v1/workspaces?verdict={word}")).await?;
        ensure!(page["total"] == status["counts"][word.replace('-', " ")] && page["total"] == 1, "{word}: {page}");
    }
    Ok(())
}

#[tokio::test]
async fn pages_by_key_have_those_who_stay_once_while_others_come_and_go() -> Result<()> {
    let world = World::new(60, 3).await?;
    let page = async |after: &str| -> Result<(Vec<String>, Option<String>)> {
        let (_, page) = world.json(&format!("/api/v1/workspaces?limit=10&q=agent{after}")).await?;
        let rows = page["workspaces"].as_array().context("rows")?;
        let ids = rows.iter().map(|row| row["workspace_id"].as_str().unwrap_or_default().to_owned()).collect();
        Ok((ids, page["next"].as_str().map(str::to_owned)))
    };
    let total = async || -> Result<i64> {
        world.json("/api/v1/workspaces?limit=1&q=agent").await?.1["total"].as_i64().context("total")
    };
    let (mut ids, mut next) = page("").await?;
    let mut come_and_gone = 0;
    while let Some(after) = next {
        // The one at which the next page begins goes, and one comes on a page that was turned already.
        come_and_gone += 1;
        let change = format!(
            "delete from defib.workspaces where id = '{after}';
             insert into defib.workspaces (id, name, status, engine) values ('a{come_and_gone}', 'Agent of later', 'online', 'e1')"
        );
        world.stage.db.another_connection().await?.batch_execute(&change).await?;
        eventually(SOON, "the picture has the change", async || {
            let seen = world
                .json(&format!("/api/v1/workspaces?q=a{come_and_gone}"))
                .await
                .map_err(|error| format!("{error:#}"))?
                .1;
            if seen["workspaces"].to_string().contains(&format!("\"a{come_and_gone}\"")) {
                Ok(())
            } else {
                Err(seen.to_string())
            }
        })
        .await?;
        let (more, then) = page(&format!("&after={after}")).await?;
        ids.extend(more);
        next = then;
    }
    ensure!(come_and_gone >= 5 && total().await? == 61, "{come_and_gone} pages, {} in all", total().await?);
    let once: BTreeSet<&String> = ids.iter().collect();
    ensure!(once.len() == ids.len(), "somebody comes twice: {ids:?}");
    let staying: Vec<String> = (1..=60).map(|n| format!("w{n}")).collect();
    ensure!(staying.iter().all(|id| once.contains(id)), "somebody is missing: {ids:?}");
    Ok(())
}

/// The next event of a stream: its name and its data.
async fn event(stream: &mut BufReader<TcpStream>) -> Result<(String, Value)> {
    let mut name = String::new();
    loop {
        let mut line = String::new();
        let read = timeout(SOON, stream.read_line(&mut line)).await.context("no event")??;
        ensure!(read > 0, "the stream has ended");
        if let Some(text) = line.strip_prefix("event: ") {
            name = text.trim().to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            return Ok((name, serde_json::from_str(data.trim()).with_context(|| line.clone())?));
        }
    }
}

async fn listen(address: std::net::SocketAddr) -> Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: defib\r\n\r\n").await?;
    Ok(BufReader::new(stream))
}

#[tokio::test]
async fn the_stream_tells_who_dies_and_a_reader_that_connects_again_knows_how_things_stand() -> Result<()> {
    let contract = Contract::read()?;
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats().knob("MODE", "observe");
    for id in ["w1", "w2"] {
        engine.add(container(id));
        stage.db.add(Workspace::new(id).silent()).await?;
    }
    let daemon = stage.run().await?;
    let mut stream = listen(daemon.address()).await?;
    let (name, first) = event(&mut stream).await?;
    ensure!(name == "fleet" && first["total"] == 2 && first["changes"] == json!([]), "{name} {first}");
    contract.named("FleetEvent", &first)?;

    engine.exit("w1", 137)?;
    let change = loop {
        let (_, next) = event(&mut stream).await?;
        contract.named("FleetEvent", &next)?;
        let changes = next["changes"].as_array().context("changes")?.clone();
        if let Some(change) = changes.iter().find(|change| change["to"] == "dead") {
            break change.clone();
        }
    };
    ensure!(change["workspace_id"] == "w1" && change["engine"] == "default", "{change}");

    drop(stream);
    let (_, again) = event(&mut listen(daemon.address()).await?).await?;
    ensure!(again["counts"]["dead"] == 1 && again["total"] == 2, "{again}");
    Ok(())
}

#[tokio::test]
async fn streams_have_a_bound_of_their_own_keep_no_scrape_out_and_do_not_delay_the_stop() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?;
    let daemon = stage.run().await?;
    let mut streams = Vec::new();
    for _ in 0..16 {
        let mut stream = listen(daemon.address()).await?;
        event(&mut stream).await?;
        streams.push(stream);
    }
    let (status, body) = daemon.get("/api/v1/events").await?;
    let problem: Value = serde_json::from_str(&body)?;
    ensure!(status == 503, "{status}: {body}");
    Contract::read()?.named("Problem", &problem)?;
    ensure!(daemon.get("/metrics").await?.0 == 200 && daemon.get("/healthz").await?.0 == 200);
    drop(streams.pop());
    eventually(SOON, "a place is free again", async || {
        let mut stream = listen(daemon.address()).await.map_err(|error| error.to_string())?;
        event(&mut stream).await.map(drop).map_err(|error| error.to_string())
    })
    .await?;
    let begun = tokio::time::Instant::now();
    daemon.stop(SOON).await?;
    ensure!(begun.elapsed() < Duration::from_secs(5), "the stop took {:?}", begun.elapsed());
    Ok(())
}
