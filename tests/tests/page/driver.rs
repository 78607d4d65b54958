//! A real browser: Debian's chromium, told what to do by its chromedriver over the `WebDriver` protocol.
//!
//! The few commands that the tests need are plain JSON over HTTP, so they are written here; the client libraries bring Unicode tables
//! and a cookie store with them, which every build of the tests would have to compile.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use defib_testkit::{Program, eventually};
use defib_tests::SOON;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Keys by their names in the protocol.
pub(crate) const TAB: &str = "\u{e004}";
pub(crate) const ENTER: &str = "\u{e007}";

/// A browser that has to start on a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// The head of an answer, and as much of a body as it announces: the driver keeps the connection open after it.
async fn read_answer(stream: &mut BufReader<TcpStream>) -> Result<(String, String)> {
    let (mut head, mut length) = (String::new(), 0_usize);
    loop {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line).await? > 0, "the driver has closed the connection");
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((head, String::from_utf8(body)?))
}

/// Starts the driver on a free port. It takes the same port on IPv4 and on IPv6, and ends if the one that it picked is taken on one of them,
/// which happens when several tests start theirs at once. Then another try picks another port.
async fn start_driver() -> Result<(Program, u16)> {
    let mut tries_left = 5;
    loop {
        let driver = Program::start("/usr/bin/chromedriver", ["--port=0"], &BTreeMap::new())
            .context("chromium-driver of deploy/dev/packages.txt is needed")?
            .quiet();
        match driver.wait_for_line("started successfully on port", SOON).await {
            Ok(line) => {
                let port = line.text.trim_end_matches('.').rsplit(' ').next().context("no port")?.parse()?;
                return Ok((driver, port));
            }
            Err(error) if tries_left > 1 && format!("{error:#}").contains("Address already in use") => tries_left -= 1,
            Err(error) => return Err(error),
        }
    }
}

/// A browser with one window. Dropping it ends the driver, and with it the browser.
pub(crate) struct Browser {
    port: u16,
    session: String,
    _driver: Program,
}

impl Browser {
    pub(crate) async fn start() -> Result<Self> {
        let (driver, port) = start_driver().await?;
        let mut browser = Self { port, session: String::new(), _driver: driver };
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,1000"];
        let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": { "args": arguments } } } });
        let begun = browser.ask("POST", "/session", &wanted).await?;
        browser.session = format!("/session/{}", begun["sessionId"].as_str().context("no session")?);
        Ok(browser)
    }

    /// Opens an address, and waits until it is loaded.
    pub(crate) async fn open(&self, address: &str) -> Result<()> {
        self.tell("/url", &json!({ "url": address })).await.map(drop)
    }

    /// What a function body gives back.
    pub(crate) async fn run(&self, script: &str) -> Result<Value> {
        self.tell("/execute/sync", &json!({ "script": script, "args": [] })).await
    }

    /// Waits until an expression is true.
    pub(crate) async fn until(&self, what: &str, expression: &str) -> Result<()> {
        let script = format!("return [Boolean({expression}), document.title, document.body.innerText.slice(0, 800)]");
        eventually(SOON, what, async || {
            let seen = self.run(&script).await.map_err(|error| format!("{error:#}"))?;
            if seen[0] == true { Ok(()) } else { Err(seen.to_string()) }
        })
        .await
    }

    /// Presses keys, one after the other.
    pub(crate) async fn press(&self, keys: &str) -> Result<()> {
        let strokes: Vec<Value> = keys
            .chars()
            .flat_map(|key| [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })])
            .collect();
        let actions = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": strokes }] });
        self.tell("/actions", &actions).await.map(drop)
    }

    /// Clicks what a selector finds first.
    pub(crate) async fn click(&self, selector: &str) -> Result<()> {
        let found = self.tell("/element", &json!({ "using": "css selector", "value": selector })).await?;
        let element = found.as_object().and_then(|found| found.values().next()).and_then(Value::as_str);
        let element = element.with_context(|| format!("no {selector}"))?;
        self.tell(&format!("/element/{element}/click"), &json!({})).await.map(drop)
    }

    /// A command of the browser's own protocol.
    pub(crate) async fn devtools(&self, command: &str, parameters: Value) -> Result<Value> {
        self.tell("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters })).await
    }

    /// Light or dark, wide or narrow.
    pub(crate) async fn look(&self, scheme: &str, width: u32, height: u32) -> Result<()> {
        let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", scheme).await?;
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await.map(drop)
    }

    async fn tell(&self, path: &str, body: &Value) -> Result<Value> {
        self.ask("POST", &format!("{}{path}", self.session), body)
            .await
            .with_context(|| format!("the browser: {path} {body:.300}"))
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.port,
            body.len()
        );
        let (head, body) = timeout(PATIENCE, async {
            let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).await?);
            stream.write_all(request.as_bytes()).await?;
            read_answer(&mut stream).await
        })
        .await
        .context("no answer")??;
        let answer: Value = serde_json::from_str(&body).with_context(|| format!("no JSON: {body}"))?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{head}\n{answer:#}");
        Ok(answer["value"].clone())
    }
}
