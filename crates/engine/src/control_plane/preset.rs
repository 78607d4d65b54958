//! Presets: TOML files that describe the interface of a control plane.
//!
//! Reading is strict: defib does not start if a preset has an unknown key, a gap that cannot be filled, a state with two meanings or an
//! invalid pointer, and the message names the line and the key. A control plane that is misunderstood would get a healthy fleet restarted.
//!
//! `docs/control-planes.md` and `deploy/control-planes/generic.toml` describe every key.

use std::path::Path;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};

use super::api::{Api, Fields, Get, Headers, List, MissingRule, Paging, Pointer, Restart, State, States, Step};
use super::document::{self, At, PresetError, Table};
use super::rate::Rate;
use super::template::{Filled, Gap, Template, Use};
use super::variables::Variables;

/// Presets that are built in: name and text.
const BUILT_IN: [(&str, &str); 5] = [
    ("coder", include_str!("../../../../deploy/control-planes/coder.toml")),
    ("daytona", include_str!("../../../../deploy/control-planes/daytona.toml")),
    ("fly-machines", include_str!("../../../../deploy/control-planes/fly-machines.toml")),
    ("generic", include_str!("../../../../deploy/control-planes/generic.toml")),
    ("molecule-core", include_str!("../../../../deploy/control-planes/molecule-core.toml")),
];

/// The statuses that accept a request, if its step names none.
const ACCEPT: [u16; 4] = [200, 201, 202, 204];

/// Gaps that a request about one instance can have.
const ONE: [Gap; 2] = [Gap::Workspace, Gap::Instance];

/// Gaps that a request for a page can have.
const PAGED: [Gap; 3] = [Gap::Cursor, Gap::Offset, Gap::Page];

/// Which part of a preset is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The preset of an engine: all of it is read.
    Engine,
    /// The platform's own restart: `[restart]` alone. The rest need not be there, and its variables need not be given.
    Platform,
}

/// A preset's text.
#[derive(Debug)]
pub(crate) struct Preset {
    origin: String,
    text: String,
}

impl Preset {
    /// The built-in preset of this name.
    pub(crate) fn built_in(name: &str) -> Result<Self, PresetError> {
        let found = BUILT_IN.iter().find(|(known, _)| *known == name);
        let (name, text) = found.ok_or_else(|| {
            let known: Vec<_> = BUILT_IN.iter().map(|(known, _)| *known).collect();
            PresetError::of_all("the address", format!("there is no such preset; there are {}", known.join(", ")))
        })?;
        Ok(Self { origin: format!("preset {name}"), text: (*text).to_owned() })
    }

    /// A preset from a file of the operator's.
    pub(crate) fn file(path: &Path) -> Result<Self, PresetError> {
        let origin = format!("preset {}", path.display());
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Self { origin, text }),
            Err(error) => Err(PresetError::of_all(&origin, format!("cannot read it: {error}"))),
        }
    }

    #[cfg(test)]
    pub(crate) fn of(text: &str) -> Self {
        Self { origin: "preset test".into(), text: text.into() }
    }

    /// Reads it. `base` is the address that the operator gave; without one the preset has to name its own.
    pub(crate) fn read(&self, base: Option<&str>, variables: &Variables, purpose: Purpose) -> Result<Api, PresetError> {
        let reader = Reader { variables };
        let mut root = document::parse(&self.origin, &self.text)?;

        let own_base = root.text("base")?;
        let base = match (base, own_base) {
            (Some(base), _) => trimmed(base),
            (None, Some(own)) => reader.base(&own)?,
            (None, None) => {
                return Err(PresetError::of_all(&self.origin, "`base` is missing: the address of the control plane"));
            }
        };
        let rate = match root.text("rate")? {
            None => Rate::DEFAULT,
            Some(At { value, place }) => {
                Rate::parse(&value).ok_or_else(|| place.error("a rate is written 10/s, 600/m or 3600/h"))?
            }
        };
        let headers_table = root.table("headers")?;
        let needs_headers = |table| reader.headers(table, &Headers::new());
        let headers = headers_table.map(needs_headers).transpose()?.unwrap_or_default();

        let (list, get) = (root.table("list")?, root.table("get")?);
        let (states, missing) = (root.table("states")?, root.table("missing")?);
        let restart = root.table("restart")?;
        root.finish(&["base", "rate", "headers", "[list]", "[get]", "[states]", "[missing]", "[restart]"])?;

        let restart = restart.map(|table| reader.restart(table, &base, &headers, purpose)).transpose()?.flatten();
        if purpose == Purpose::Platform {
            let Some(mut restart) = restart else {
                return Err(PresetError::of_all(&self.origin, "it has no [restart], so it cannot restart anything"));
            };
            let waits = |step: &Step| step.until.is_some();
            if restart.steps.iter().any(waits) {
                return Err(PresetError::of_all(
                    &self.origin,
                    "a step waits for a state (`until`), and the platform's restart cannot see states: remove `until`",
                ));
            }
            if restart.kill_steps.iter().any(waits) {
                restart.kill_steps.clear(); // so a running instance cannot be restarted this way, and a try fails with that reason
            }
            let restart = Some(restart);
            return Ok(Api { base, rate, list: None, get: None, states: States::default(), missing: None, restart });
        }
        let list = list.map(|table| reader.list(table, &headers)).transpose()?;
        let get = get.map(|table| reader.get(table, &headers)).transpose()?;
        if list.is_none() && get.is_none() {
            return Err(PresetError::of_all(
                &self.origin,
                "it has neither [list] nor [get], so it cannot see anything",
            ));
        }
        let states = states.ok_or_else(|| PresetError::of_all(&self.origin, "[states] is missing"))?;
        let states = read_states(states)?;
        if missing.is_some() && get.is_none() {
            return Err(PresetError::of_all(
                &self.origin,
                "[missing] applies to the answers of [get], and there is no [get]",
            ));
        }
        let missing = missing.map(read_missing).transpose()?;
        let waits =
            |restart: &Restart| restart.steps.iter().chain(&restart.kill_steps).any(|step| step.until.is_some());
        if get.is_none() && restart.as_ref().is_some_and(waits) {
            return Err(PresetError::of_all(
                &self.origin,
                "a step waits for a state (`until`), and there is no [get] to read states with",
            ));
        }
        Ok(Api { base, rate, list, get, states, missing, restart })
    }
}

/// Reads values, and fills them with the variables that the operator gave.
struct Reader<'a> {
    variables: &'a Variables,
}

impl Reader<'_> {
    fn filled(&self, text: &At<String>, purpose: Use, gaps: &[Gap]) -> Result<Filled, PresetError> {
        let filled = Template::parse(text, purpose, gaps)?.resolve(self.variables)?;
        filled.ok_or_else(|| text.place.error("a variable that may be left out cannot stand here"))
    }

    fn path(&self, text: &At<String>, gaps: &[Gap]) -> Result<Filled, PresetError> {
        if !text.value.starts_with('/') {
            return Err(text.place.error("a path begins with a /; it is appended to the base"));
        }
        if text.value.contains(|letter: char| letter.is_whitespace() || letter.is_control() || letter == '#') {
            return Err(text.place.error("a path holds no blanks and no #"));
        }
        self.filled(text, Use::Path, gaps)
    }

    fn base(&self, text: &At<String>) -> Result<String, PresetError> {
        let filled = self.filled(text, Use::Base, &[])?.fill(super::template::Values::default()).unwrap_or_default();
        check_base(&filled).map_err(|what| text.place.error(what))?;
        Ok(trimmed(&filled))
    }

    /// The headers of a table together with those that it inherits. A header of the table replaces an inherited one of the same name.
    fn headers(&self, table: Table<'_>, inherited: &Headers) -> Result<Headers, PresetError> {
        let mut headers = inherited.clone();
        for (name, text) in table.all_texts()? {
            let name =
                HeaderName::try_from(&name).map_err(|_| text.place.error("this is not a valid name of a header"))?;
            headers.retain(|(known, _)| *known != name);
            let Some(filled) = Template::parse(&text, Use::Header, &[])?.resolve(self.variables)? else { continue };
            let value = filled.fill(super::template::Values::default()).unwrap_or_default();
            let mut value = HeaderValue::try_from(value)
                .map_err(|_| text.place.error("its value holds a character that no header can hold (a line feed?)"))?;
            value.set_sensitive(true);
            headers.push((name, value));
        }
        Ok(headers)
    }

    fn inherited_headers(&self, table: &mut Table<'_>, inherited: &Headers) -> Result<Headers, PresetError> {
        match table.table("headers")? {
            Some(own) => self.headers(own, inherited),
            None => Ok(inherited.clone()),
        }
    }

    fn list(&self, mut table: Table<'_>, headers: &Headers) -> Result<List, PresetError> {
        let headers = self.inherited_headers(&mut table, headers)?;
        let path_text = table.needed_text("path")?;
        let path = self.path(&path_text, &PAGED)?;
        let items = pointer(&table.needed_text("items")?)?;
        let id = pointer(&table.needed_text("id")?)?;
        let fields = fields(&mut table)?;
        let next = table.text("next")?;
        let total = table.text("total")?.map(|text| pointer(&text)).transpose()?;
        let complete = table.text("complete")?.map(|text| pointer(&text)).transpose()?;
        let paging = match next {
            Some(next) if path.has(Gap::Cursor) => Paging::Cursor { next: pointer(&next)? },
            Some(next) => return Err(next.place.error("the path has no {cursor} to put it into")),
            None if path.has(Gap::Cursor) => {
                return Err(path_text.place.error("{cursor} is filled with what stands at `next`, which is missing"));
            }
            None if path.has(Gap::Offset) || path.has(Gap::Page) => Paging::Numbered { total },
            None => Paging::Single,
        };
        table.finish(&[
            "path",
            "headers",
            "items",
            "id",
            "state",
            "started_at",
            "stopped_at",
            "next",
            "total",
            "complete",
        ])?;
        Ok(List { path, headers, items, fields, id, paging, complete })
    }

    fn get(&self, mut table: Table<'_>, headers: &Headers) -> Result<Get, PresetError> {
        let headers = self.inherited_headers(&mut table, headers)?;
        let path_text = table.needed_text("path")?;
        let path = self.path(&path_text, &ONE)?;
        if !path.has(Gap::Instance) && !path.has(Gap::Workspace) {
            return Err(path_text
                .place
                .error("the path has to name the instance, by {instance_ref} or {workspace_id}"));
        }
        let id = table.text("id")?.map(|text| pointer(&text)).transpose()?;
        let fields = fields(&mut table)?;
        table.finish(&["path", "headers", "id", "state", "started_at", "stopped_at"])?;
        Ok(Get { path, headers, fields, id })
    }

    /// Reads `[restart]`. If the preset says that another server makes the restarts, and the operator has not given that server's address,
    /// then the engine makes no restarts, because its own address and token are for the control plane and not for that server. In the
    /// preset of the platform's own restart, the platform's address is the address of that server.
    fn restart(
        &self,
        mut table: Table<'_>,
        base: &str,
        headers: &Headers,
        purpose: Purpose,
    ) -> Result<Option<Restart>, PresetError> {
        let own_base = table.text("base")?;
        let (base, is_elsewhere) = match own_base {
            None => (base.to_owned(), false),
            Some(text) => match Template::parse(&text, Use::Base, &[])?.resolve(self.variables)? {
                None => (base.to_owned(), purpose == Purpose::Engine),
                Some(_) => (self.base(&text)?, false),
            },
        };
        let headers = self.inherited_headers(&mut table, headers)?;
        let idempotency_header = match table.text("idempotency_header")? {
            None => None,
            Some(text) => Some(
                HeaderName::try_from(&text.value)
                    .map_err(|_| text.place.error("this is not a valid name of a header"))?,
            ),
        };
        let missing = table.place().error("`steps` is missing: the requests to send");
        let steps = table.tables("steps")?.ok_or(missing)?;
        if steps.value.is_empty() {
            return Err(steps.place.error("there has to be at least one step"));
        }
        let kill_steps = table.tables("kill_steps")?.map(|steps| steps.value).unwrap_or_default();
        table.finish(&["base", "headers", "idempotency_header", "steps", "kill_steps"])?;
        let step = |table| self.step(table, &headers);
        let steps = steps.value.into_iter().map(step).collect::<Result<_, _>>()?;
        let kill_steps = kill_steps.into_iter().map(step).collect::<Result<_, _>>()?;
        Ok((!is_elsewhere).then_some(Restart { base, steps, kill_steps, idempotency_header }))
    }

    fn step(&self, mut table: Table<'_>, headers: &Headers) -> Result<Step, PresetError> {
        let headers = self.inherited_headers(&mut table, headers)?;
        let method = table.needed_text("method")?;
        let method = match method.value.as_str() {
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "PATCH" => Method::PATCH,
            _ => return Err(method.place.error("a step is a POST, PUT or PATCH")),
        };
        let path = self.path(&table.needed_text("path")?, &ONE)?;
        let body = table.text("body")?.map(|text| self.filled(&text, Use::Body, &ONE)).transpose()?;
        let accept = table.statuses("accept")?;
        let superseded = table.statuses("superseded")?;
        if let (Some(accept), Some(superseded)) = (&accept, &superseded)
            && accept.value.iter().any(|status| superseded.value.contains(status))
        {
            return Err(superseded.place.error("a status cannot be in `accept` as well"));
        }
        let until = match table.text("until")? {
            Some(text) => Some(state(&text)?),
            None => None,
        };
        table.finish(&["method", "path", "headers", "body", "accept", "superseded", "until"])?;
        Ok(Step {
            method,
            path,
            headers,
            body,
            accept: accept.map_or_else(|| ACCEPT.to_vec(), |accept| accept.value),
            superseded: superseded.map(|superseded| superseded.value).unwrap_or_default(),
            until,
        })
    }
}

fn fields(table: &mut Table<'_>) -> Result<Fields, PresetError> {
    let state = pointer(&table.needed_text("state")?)?;
    let started_at = table.text("started_at")?.map(|text| pointer(&text)).transpose()?;
    let stopped_at = table.text("stopped_at")?.map(|text| pointer(&text)).transpose()?;
    Ok(Fields { state, started_at, stopped_at })
}

fn pointer(text: &At<String>) -> Result<Pointer, PresetError> {
    Pointer::new(&text.value)
        .ok_or_else(|| text.place.error("a JSON pointer begins with a /, as in /latest_build/status"))
}

fn state(text: &At<String>) -> Result<State, PresetError> {
    let found = State::ALL.into_iter().find(|state| state.label() == text.value);
    found.ok_or_else(|| text.place.error(format!("this has to be one of {}", State::ALL.map(State::label).join(", "))))
}

fn read_states(mut table: Table<'_>) -> Result<States, PresetError> {
    let mut states = States::default();
    for state in State::ALL {
        let Some(words) = table.texts(state.label())? else {
            if matches!(state, State::Running | State::Stopped) {
                return Err(table
                    .place()
                    .error(format!("`{}` is missing: the interface's words for this state", state.label())));
            }
            continue;
        };
        for word in words.value {
            if states.0.insert(word.clone(), state).is_some() {
                return Err(words.place.error(format!("the state {word:?} is named twice")));
            }
        }
    }
    table.finish(&State::ALL.map(State::label))?;
    Ok(states)
}

fn read_missing(mut table: Table<'_>) -> Result<MissingRule, PresetError> {
    let needed = |key: &str, table: &Table<'_>| {
        table.place().error(format!(
            "`{key}` is missing: an instance counts as gone only by a status and a word in the body together"
        ))
    };
    let status = table.status("status")?.ok_or_else(|| needed("status", &table))?;
    if matches!(status.value, 401 | 403 | 429 | 500..) {
        return Err(status.place.error("this status never says that an instance is gone"));
    }
    let json = table.text("json")?.ok_or_else(|| needed("json", &table))?;
    let equals = table.scalar("equals")?.ok_or_else(|| needed("equals", &table))?;
    table.finish(&["status", "json", "equals"])?;
    Ok(MissingRule { status: status.value, json: pointer(&json)?, equals: equals.value })
}

/// Whether a text is an address to which paths can be appended.
pub(crate) fn check_base(base: &str) -> Result<(), &'static str> {
    let url = url::Url::parse(base).map_err(|_| "this is not an address")?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("an address begins with http:// or https:// and a host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an address takes no user or password; write a header, as in Authorization = \"Bearer ${token}\"");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("an address ends before ? and #");
    }
    Ok(())
}

fn trimmed(base: &str) -> String {
    base.trim_end_matches('/').to_owned()
}

#[cfg(test)]
#[path = "preset_tests.rs"]
mod tests;
