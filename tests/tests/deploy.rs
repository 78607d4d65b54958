//! Checks the files of `deploy/`: with systemd's own verifier, against the published schemas of Kubernetes and Compose, and against the
//! program's knobs and metrics.
//!
//! Nobody notices when a manifest no longer fits the program: a knob is renamed, a metric is dropped, or a time-out becomes longer than the
//! one around it. Each such dependency is one test. The schemas are in `deploy/schemas`, so nothing is fetched. (Typed structs such as
//! k8s-openapi's would be no stricter: they skip what they do not know, and take minutes to build.)
//!
//! The file is long because it is the list of these dependencies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use defib_testkit::program::built_program;
use serde_json::{Value, json};

/// What a stopping daemon may take beside the restart itself: `CLAIM_MARGIN` of its restarter.
const CLAIM_MARGIN: Duration = Duration::from_secs(20);

// --- systemd ---

#[test]
fn systemd_accepts_the_unit_and_finds_it_hardened() -> Result<()> {
    let unit = read("deploy/systemd/defib.service")?;
    ensure!(unit.contains("ExecStart=/usr/local/bin/defib run\n"), "the unit starts something else");
    // The copy has the same name, and a program that exists, because `verify` looks for the program.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("systemd");
    std::fs::create_dir_all(&folder)?;
    let copy = folder.join("defib.service");
    let program = built_program("defib")?;
    std::fs::write(&copy, unit.replace("/usr/local/bin/defib", &program.display().to_string()))?;

    let verify = systemd_analyze(&["verify", "--man=no"], &copy)?;
    let said = String::from_utf8_lossy(&verify.stderr);
    ensure!(verify.status.success() && said.trim().is_empty(), "systemd-analyze verify: {said}");

    let security = systemd_analyze(&["security", "--offline=true", "--no-pager"], &copy)?;
    let said = String::from_utf8_lossy(&security.stdout);
    let level = said.lines().find_map(|line| line.split_once("exposure level for defib.service: "));
    let (_, level) = level.with_context(|| format!("systemd-analyze security gave no level: {said}"))?;
    let level: f64 = level.split_whitespace().next().unwrap_or_default().parse()?;
    ensure!(level < 3.0, "exposure level {level}, which should be below 3.0:\n{said}");
    Ok(())
}

fn systemd_analyze(arguments: &[&str], unit: &Path) -> Result<Output> {
    let run = Command::new("systemd-analyze").args(arguments).arg(unit).env("LC_ALL", "C.UTF-8").output();
    run.context("run systemd-analyze: `make install` brings it (Debian package systemd)")
}

// --- knobs ---

#[test]
fn the_environment_file_is_the_one_that_the_program_writes() -> Result<()> {
    let run = Command::new(built_program("defib")?).arg("help-env").env_clear().output()?;
    ensure!(run.status.success(), "defib help-env: {}", String::from_utf8_lossy(&run.stderr));
    let (ours, theirs) = (read("deploy/defib.env")?, String::from_utf8(run.stdout)?);
    for (number, (ours, theirs)) in ours.lines().zip(theirs.lines()).enumerate() {
        ensure!(
            ours == theirs,
            "deploy/defib.env:{}: run `make env-file`\n  file:    {ours}\n  program: {theirs}",
            number + 1
        );
    }
    ensure!(ours == theirs, "deploy/defib.env has another length: run `make env-file`");
    Ok(())
}

#[test]
fn whatever_deploy_sets_is_a_knob() -> Result<()> {
    let knobs = knobs()?;
    let mut seen = 0;
    for file in files("deploy")?.iter().filter(|file| !file.starts_with("deploy/schemas")) {
        let text = std::fs::read_to_string(root().join(file))?;
        for name in words(&text).filter(|word| word.starts_with("DEFIB_") && *word != "DEFIB_") {
            // These two are in comments: they are the variables that Kubernetes makes for a Service called defib.
            let is_service_link = matches!(name, "DEFIB_PORT" | "DEFIB_SERVICE_HOST");
            let is_known = knobs.contains_key(name.strip_suffix("_FILE").unwrap_or(name));
            // One for each control plane, named after its engine; a test of the configuration holds these.
            let is_known = is_known || name.starts_with("DEFIB_ENGINE_TOKEN_");
            ensure!(is_known || is_service_link, "{} speaks of {name}, which is no knob", file.display());
            seen += 1;
        }
    }
    ensure!(seen > knobs.len(), "found only {seen} variables in deploy/");
    Ok(())
}

#[test]
fn whoever_stops_the_daemon_waits_for_a_restart_under_way() -> Result<()> {
    let knobs = knobs()?;
    let knob = |name: &str| -> Result<Duration> { seconds(knobs.get(name).with_context(|| format!("no {name}"))?) };
    let longest = knob("DEFIB_RESTART_TIMEOUT")? + knob("DEFIB_STOP_GRACE")? + CLAIM_MARGIN;

    let unit = read("deploy/systemd/defib.service")?;
    let stop = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).context("no TimeoutStopSec")?;
    ensure!(seconds(stop)? > longest, "systemd waits {stop}, the daemon may take {longest:?}");

    let compose = yaml_document("deploy/docker/compose.yaml")?;
    let stop = text(&compose, "/services/defib/stop_grace_period")?;
    ensure!(seconds(stop)? > longest, "compose waits {stop}, the daemon may take {longest:?}");

    for (file, deployment) in deployments()? {
        let pod = &deployment["spec"]["template"]["spec"];
        let stop = pod["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
        ensure!(Duration::from_secs(stop) > longest, "{file} waits {stop} s, the daemon may take {longest:?}");
    }
    Ok(())
}

#[test]
fn the_watchdog_waits_for_three_slow_passes() -> Result<()> {
    let knobs = knobs()?;
    let knob = |name: &str| -> Result<Duration> { seconds(knobs.get(name).with_context(|| format!("no {name}"))?) };
    let slow_pass = knob("DEFIB_POLL_INTERVAL")? + knob("DEFIB_ENGINE_TIMEOUT")?;
    let unit = read("deploy/systemd/defib.service")?;
    let watchdog = unit.lines().find_map(|line| line.strip_prefix("WatchdogSec=")).context("no WatchdogSec")?;
    ensure!(seconds(watchdog)? >= 3 * slow_pass, "WatchdogSec={watchdog}, and a slow pass takes {slow_pass:?}");
    Ok(())
}

// --- Kubernetes ---

#[test]
fn kubernetes_accepts_the_manifests() -> Result<()> {
    for file in ["deploy/kubernetes/standalone.yaml", "deploy/kubernetes/sidecar.yaml"] {
        for document in yaml(file)? {
            let faults = kubernetes_faults(&document)?;
            ensure!(faults.is_empty(), "{file}: {}:\n{}", document["kind"], faults.join("\n"));
        }
    }
    Ok(())
}

#[test]
fn the_kubernetes_schema_refuses_what_a_cluster_would() -> Result<()> {
    let (_, good) = deployments()?.into_iter().next().context("no deployment")?;
    let pod = "/spec/template/spec";
    for (pointer, name, value, expected) in [
        (format!("{pod}/containers/0"), "livenesProbe", json!({}), "livenesProbe"),
        (pod.to_owned(), "terminationGracePeriodSeconds", json!("75s"), "75s"),
        ("/spec".to_owned(), "selector", Value::Null, "selector"),
    ] {
        let mut bad = good.clone();
        let place = bad.pointer_mut(&pointer).and_then(Value::as_object_mut).context("no such place")?;
        place.remove(name);
        if !value.is_null() {
            place.insert(name.to_owned(), value);
        }
        let faults = kubernetes_faults(&bad)?.join("\n");
        ensure!(faults.contains(expected), "a bad {name} was not refused: {faults:?}");
    }
    Ok(())
}

#[test]
fn in_kubernetes_defib_is_confined_and_watched() -> Result<()> {
    for (file, deployment) in deployments()? {
        let pod = &deployment["spec"]["template"]["spec"];
        ensure!(pod["enableServiceLinks"] == json!(false), "{file}: service links look like knobs");
        ensure!(pod["automountServiceAccountToken"] == json!(false), "{file}: defib has no use for a token");
        let of = |list: &str| pod[list].as_array().cloned().unwrap_or_default();
        let all: Vec<Value> = of("containers").into_iter().chain(of("initContainers")).collect();
        let ours: Vec<&Value> = all.iter().filter(|container| is_defib_image(&container["image"])).collect();
        let daemon = ours.iter().find(|container| container["args"] == json!(["run"])).context("no daemon")?;
        for container in &ours {
            // A setting that the container lacks is taken from its pod.
            let said = |key: &str| {
                Some(&container["securityContext"][key])
                    .filter(|v| !v.is_null())
                    .unwrap_or(&pod["securityContext"][key])
            };
            ensure!(said("runAsNonRoot") == &json!(true), "{file}: {} may be root", container["name"]);
            ensure!(said("allowPrivilegeEscalation") == &json!(false), "{file}: {}", container["name"]);
            ensure!(said("readOnlyRootFilesystem") == &json!(true), "{file}: {}", container["name"]);
            ensure!(said("capabilities")["drop"] == json!(["ALL"]), "{file}: {}", container["name"]);
            ensure!(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "{file}");
            ensure!(container["resources"]["limits"]["memory"].is_string(), "{file}: {}", container["name"]);
        }
        ensure!(daemon["livenessProbe"]["httpGet"]["path"] == "/healthz", "{file}: no liveness probe");
        let readiness = &daemon["readinessProbe"]["httpGet"]["path"];
        let is_sidecar = of("containers").len() > 1;
        ensure!(is_sidecar == readiness.is_null(), "{file}: beside others, our readiness would take theirs away");
        ensure!(is_sidecar || readiness == "/readyz", "{file}: no readiness probe");
        let port = daemon["ports"][0]["containerPort"].as_u64();
        ensure!(port == Some(9464), "{file}: port {port:?}");
    }
    Ok(())
}

/// What docs/engine-access.md says to change in the sidecar, changed: a cluster takes it, the proxy is the only one of us that has the
/// engine's socket, and it finds its file and the socket where they are.
#[test]
fn in_kubernetes_a_proxy_takes_the_engines_socket_from_defib() -> Result<()> {
    let page = read("docs/engine-access.md")?;
    let block = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).context("no yaml block")?;
    let proxy: Value = serde_saphyr::from_str::<Vec<Value>>(block)?.pop().context("no container in the block")?;
    let mut deployment = deployments()?.pop().context("no sidecar")?.1;
    let pod = deployment.pointer_mut("/spec/template/spec").context("no pod")?;
    let containers = pod["containers"].as_array_mut().context("no containers")?;
    let defib = containers.iter_mut().find(|container| container["name"] == "defib").context("no defib")?;
    let mounts = defib["volumeMounts"].as_array_mut().context("no mounts")?;
    mounts.retain(|mount| mount["name"] != "engine-socket");
    ensure!(!defib.to_string().contains("engine-socket"), "defib still has the socket: {defib:#}");
    containers.push(proxy.clone());
    let volumes = pod["volumes"].as_array_mut().context("no volumes")?;
    volumes.push(json!({"name": "engine-proxy", "configMap": {"name": "engine-proxy"}}));
    let volumes: BTreeSet<&str> = volumes.iter().filter_map(|volume| volume["name"].as_str()).collect();
    let of_proxy = array(&proxy, "/volumeMounts")?;
    ensure!(of_proxy.iter().all(|mount| mount["name"].as_str().is_some_and(|name| volumes.contains(name))));

    let settings = read("deploy/engine-proxy/haproxy.cfg")?;
    let socket =
        settings.lines().find_map(|line| line.split_once("unix@")).context("no socket in haproxy.cfg")?.1.trim();
    let folder =
        of_proxy.iter().find(|mount| mount["name"] == "engine-socket").context("no socket")?["mountPath"].as_str();
    ensure!(folder.is_some_and(|folder| socket == format!("{folder}/docker.sock")), "the proxy looks at {socket}");
    let pod = &deployment["spec"]["template"]["spec"];
    let engine =
        array(pod, "/containers")?.iter().find(|container| container["name"] == "engine").context("no engine")?;
    let group = engine["args"].to_string();
    ensure!(group.contains(&format!("--group={}", proxy["securityContext"]["runAsGroup"])), "not its group: {group}");
    let faults = kubernetes_faults(&deployment)?;
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn deployments() -> Result<Vec<(String, Value)>> {
    let mut found = Vec::new();
    for file in ["deploy/kubernetes/standalone.yaml", "deploy/kubernetes/sidecar.yaml"] {
        let documents = yaml(file)?;
        let deployment = documents.into_iter().find(|document| document["kind"] == "Deployment");
        found.push((file.to_owned(), deployment.with_context(|| format!("no Deployment in {file}"))?));
    }
    Ok(found)
}

fn kubernetes_faults(document: &Value) -> Result<Vec<String>> {
    let schema: Value = serde_json::from_str(&read("deploy/schemas/kubernetes.json")?)?;
    let kind = format!("{}/{}", text(document, "/apiVersion")?, text(document, "/kind")?);
    let definition = schema["kinds"][&kind].as_str();
    let definition = definition.with_context(|| format!("no schema for {kind}: add it to deploy/schemas/update.sh"))?;
    faults(&json!({ "$ref": format!("#/$defs/{definition}"), "$defs": schema["$defs"] }), document)
}

// --- Docker ---

#[test]
fn compose_accepts_its_file_and_confines_defib() -> Result<()> {
    let compose = yaml_document("deploy/docker/compose.yaml")?;
    let schema = serde_json::from_str(&read("deploy/schemas/compose.json")?)?;
    let faults = faults(&schema, &compose)?;
    ensure!(faults.is_empty(), "{}", faults.join("\n"));

    let services = compose["services"].as_object().context("no services")?;
    let ours: Vec<_> = services.iter().filter(|(_, service)| is_defib_image(&service["image"])).collect();
    ensure!(ours.len() == 2, "expected the daemon and its migration");
    for (name, service) in ours {
        ensure!(service["read_only"] == json!(true), "{name}");
        ensure!(service["cap_drop"] == json!(["ALL"]), "{name}");
        ensure!(service["security_opt"] == json!(["no-new-privileges:true"]), "{name}");
        ensure!(service["user"].is_null(), "{name}: the image says who it is");
        let build = root().join("deploy/docker").join(text(service, "/build/context")?);
        ensure!(build.join(text(service, "/build/dockerfile")?).is_file(), "{name}: no such Dockerfile");
    }
    Ok(())
}

/// `docker compose --profile engine-proxy`, and defib told to ask it.
#[test]
fn in_compose_the_proxy_is_told_where_the_socket_is_and_listens_where_defib_asks() -> Result<()> {
    let compose = yaml_document("deploy/docker/compose.yaml")?;
    let (proxy, text) = (&compose["services"]["engine-proxy"], read("deploy/docker/compose.yaml")?);
    ensure!(proxy["profiles"] == json!(["engine-proxy"]) && proxy["ports"].is_null(), "nobody else may reach it");
    let settings = read("deploy/engine-proxy/haproxy.cfg")?;
    let line = |word: &str| {
        settings
            .lines()
            .find_map(|line| line.trim().strip_prefix(word))
            .map(str::trim)
            .with_context(|| format!("no {word}"))
    };
    let port = line("bind :")?;
    let advice = format!("default=tcp://engine-proxy:{port}");
    ensure!(text.contains(&advice) && read("docs/engine-access.md")?.contains(&advice), "no {advice}");
    let socket = line("server engine unix@")?;
    let mounts: Vec<&str> = array(proxy, "/volumes")?.iter().filter_map(Value::as_str).collect();
    ensure!(mounts.iter().any(|mount| mount.ends_with(&format!(":{socket}"))), "no {socket} in {mounts:?}");
    let file = mounts.iter().find_map(|mount| mount.strip_suffix(":/usr/local/etc/haproxy/haproxy.cfg:ro"));
    let file = root().join("deploy/docker").join(file.context("haproxy is not given its file")?);
    ensure!(file.is_file(), "there is no {}", file.display());
    Ok(())
}

#[test]
fn the_image_holds_one_program_that_is_not_root() -> Result<()> {
    let dockerfile = read("deploy/docker/Dockerfile")?;
    let lines: Vec<&str> =
        dockerfile.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).collect();
    let last_stage = lines.iter().rposition(|line| line.starts_with("FROM ")).context("no stage")?;
    ensure!(lines[last_stage] == "FROM scratch", "the last stage is {}", lines[last_stage]);
    let user = lines[last_stage..].iter().find_map(|line| line.strip_prefix("USER ")).context("no USER")?;
    let ids: Vec<u32> = user.split(':').map(str::parse).collect::<Result<_, _>>().context("USER is not numeric")?;
    ensure!(ids.len() == 2 && !ids.contains(&0), "USER {user}");
    ensure!(lines.contains(&r#"ENTRYPOINT ["/defib"]"#), "a shell would be needed to start anything else");

    let sent: BTreeSet<String> =
        read(".dockerignore")?.lines().filter_map(|line| Some(line.strip_prefix('!')?.into())).collect();
    let mut copied = BTreeSet::new();
    for line in lines.iter().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--from=")) {
        let mut paths: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        paths.pop();
        copied.extend(paths);
    }
    for path in &copied {
        ensure!(root().join(path).exists(), "COPY {path}: there is no such file");
    }
    ensure!(sent == copied, ".dockerignore lets in {sent:?}, the Dockerfile copies {copied:?}");

    // Whatever the build needs is copied: each folder with a member of the workspace.
    let manifest = read("Cargo.toml")?;
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = ")).context("no members")?;
    for member in members.split('"').skip(1).step_by(2) {
        let folder = member.trim_end_matches("/*");
        let within = |path: &String| Path::new(folder).starts_with(path);
        ensure!(copied.iter().any(within), "the Dockerfile does not copy {folder}, a part of the workspace");
    }
    Ok(())
}

fn is_defib_image(image: &Value) -> bool {
    image == &json!(concat!("defib:", env!("CARGO_PKG_VERSION")))
}

// --- Prometheus and Grafana ---

#[test]
fn alerts_speak_of_metrics_that_exist_and_say_what_to_do() -> Result<()> {
    let alerts = yaml_document("deploy/prometheus/alerts.yaml")?;
    let rules: Vec<&Value> =
        array(&alerts, "/groups")?.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
    ensure!(!rules.is_empty(), "no alerts");
    let tested = read("deploy/prometheus/alerts.test.yaml")?;
    for rule in rules {
        let name = text(rule, "/alert")?;
        only_known_metrics(name, text(rule, "/expr")?)?;
        ensure!(matches!(text(rule, "/labels/severity")?, "page" | "ticket"), "{name}: severity");
        ensure!(!text(rule, "/annotations/summary")?.is_empty(), "{name}: summary");
        ensure!(!text(rule, "/annotations/description")?.is_empty(), "{name}: description");
        ensure!(words(&tested).any(|word| word == name), "{name} is not in alerts.test.yaml");
    }
    Ok(())
}

#[test]
fn every_alert_points_to_its_section_of_the_runbook() -> Result<()> {
    let alerts = yaml_document("deploy/prometheus/alerts.yaml")?;
    let rules = array(&alerts, "/groups")?.iter().filter_map(|group| group["rules"].as_array()).flatten();
    let named: BTreeSet<&str> = rules
        .map(|rule| {
            let name = text(rule, "/alert")?;
            let url = text(rule, "/annotations/runbook_url").with_context(|| format!("{name} has no runbook_url"))?;
            let expected = format!("docs/runbook.md#alert-{}", name.to_ascii_lowercase());
            ensure!(url == expected, "{name} points to {url} and not to {expected}");
            Ok(name)
        })
        .collect::<Result<_>>()?;
    let runbook = read("docs/runbook.md")?;
    let sections: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### alert: ")).collect();
    ensure!(sections == named, "sections without an alert, or alerts without a section: {:?}", &sections ^ &named);
    Ok(())
}

#[test]
fn every_section_of_the_runbook_answers_the_four_questions() -> Result<()> {
    let runbook = read("docs/runbook.md")?;
    let mut sections = runbook.split("\n### ").skip(1).peekable();
    ensure!(sections.peek().is_some(), "no sections");
    for section in sections {
        let section = section.split("\n## ").next().unwrap_or_default();
        let title = section.lines().next().unwrap_or_default();
        let answers: Vec<&str> = section.lines().filter(|line| line.starts_with('*')).collect();
        for (answer, question) in answers.iter().zip(["*Means.* ", "*Look at.* ", "*Do.* ", "*By itself.* "]) {
            ensure!(answer.starts_with(question), "{title}: {answer:?} where {question:?} is expected");
        }
        ensure!(answers.len() == 4, "{title} answers {} of 4 questions", answers.len());
    }
    Ok(())
}

#[test]
fn the_links_within_the_runbook_lead_somewhere() -> Result<()> {
    let runbook = read("docs/runbook.md")?;
    let anchors: BTreeSet<String> = runbook
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(':', "").replace(' ', "-"))
        .collect();
    let links: Vec<&str> =
        runbook.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap_or_default()).collect();
    ensure!(!links.is_empty(), "no links");
    for link in links {
        ensure!(anchors.contains(link), "the runbook links to #{link}, which it does not have");
    }
    Ok(())
}

#[test]
fn the_dashboard_shows_metrics_that_exist() -> Result<()> {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/defib.json")?)?;
    let mut ids = BTreeSet::new();
    for panel in array(&dashboard, "/panels")? {
        let title = text(panel, "/title")?;
        ensure!(ids.insert(panel["id"].as_u64()), "{title}: its id is taken");
        for target in array(panel, "/targets")? {
            only_known_metrics(title, text(target, "/expr")?)?;
        }
    }
    let variables = array(&dashboard, "/templating/list")?;
    only_known_metrics("the variable instance", text(&variables[1], "/query/query")?)
}

fn only_known_metrics(who: &str, expression: &str) -> Result<()> {
    let exported = exported_metrics()?;
    let mut asked = words(expression).filter(|word| word.starts_with("defib_")).peekable();
    ensure!(asked.peek().is_some(), "{who} asks for no metric of defib: {expression}");
    for name in asked {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        ensure!(exported.contains(family), "{who} asks for {name}, which defib does not have");
    }
    Ok(())
}

/// Names that `metrics.rs` both explains and registers: each stands there twice at least.
fn exported_metrics() -> Result<BTreeSet<String>> {
    let source = read("crates/daemon/src/metrics.rs")?;
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for literal in source.split('"').filter(|part| part.starts_with("defib_") && words(part).eq([*part])) {
        *times.entry(literal).or_default() += 1;
    }
    let names: BTreeSet<String> = times.into_iter().filter(|(_, n)| *n > 1).map(|(name, _)| name.to_owned()).collect();
    ensure!(names.len() > 10, "found only {names:?} in metrics.rs");
    Ok(names)
}

// --- reading ---

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(root().join(path)).with_context(|| format!("read {path}"))
}

/// All files below a folder, relative to the root of the repository.
fn files(folder: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::from(folder)];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(root().join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() { waiting.push(path) } else { found.push(path) }
        }
    }
    Ok(found)
}

fn yaml(path: &str) -> Result<Vec<Value>> {
    serde_saphyr::from_multiple(&read(path)?).with_context(|| format!("parse {path}"))
}

fn yaml_document(path: &str) -> Result<Value> {
    let mut documents = yaml(path)?;
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => Ok(document),
        _ => bail!("{path} is not one document"),
    }
}

fn faults(schema: &Value, document: &Value) -> Result<Vec<String>> {
    let validator = jsonschema::validator_for(schema).map_err(|error| anyhow::anyhow!("the schema itself: {error}"))?;
    Ok(validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect())
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no text at {pointer}"))
}

fn array<'a>(value: &'a Value, pointer: &str) -> Result<&'a Vec<Value>> {
    value.pointer(pointer).and_then(Value::as_array).with_context(|| format!("no list at {pointer}"))
}

/// The variables of `deploy/defib.env` with their defaults. Another test holds that file to the program.
fn knobs() -> Result<BTreeMap<String, String>> {
    let file = read("deploy/defib.env")?;
    let lines = file.lines().map(|line| line.strip_prefix('#').unwrap_or(line));
    Ok(lines.filter(|line| line.starts_with("DEFIB_")).filter_map(|line| line.split_once('=')).map(own).collect())
}

fn own((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// `75s`, `2m`
fn seconds(text: &str) -> Result<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        _ => bail!("{text} is not a number of seconds or minutes"),
    };
    Ok(Duration::from_secs(number.parse::<u64>()? * unit))
}

/// Identifiers.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}
