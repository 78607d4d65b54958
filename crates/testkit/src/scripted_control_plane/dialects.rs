//! What each interface answers when nothing is wrong, as its documentation says.
//!
//! | interface | documented in |
//! | --- | --- |
//! | molecule-core | its public source: its control plane's status, its server's restart |
//! | Fly Machines | <https://fly.io/docs/machines/api/machines-resource/> |
//! | Daytona | <https://www.daytona.io/docs/en/tools/api/> |
//! | Coder | <https://coder.com/docs/reference/api/> |

use serde_json::{Value, json};

use super::{ApiRequest, State};

/// Whose interface is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// molecule-core: its control plane's status, and its server's restart.
    Molecule,
    /// Fly Machines.
    Fly,
    /// Daytona.
    Daytona,
    /// Coder.
    Coder,
    /// That of the generic preset.
    Generic,
}

impl State {
    /// What the interface answers when nothing is wrong.
    pub(super) fn truth(&mut self, asked: &ApiRequest) -> (u16, Value) {
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        let parameter = |name: &str| {
            form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let (dialect, is_read) = (self.dialect, asked.method == "GET");
        match (dialect, is_read, parts.as_slice()) {
            (Dialect::Molecule, true, ["cp", "workspaces", _, "status"]) => {
                self.one(&parameter("instance_id").unwrap_or_default())
            }
            (Dialect::Molecule, false, ["workspaces", _, "restart"]) => (200, json!({"status": "provisioning"})),
            (Dialect::Fly, true, ["v1", "apps", _, "machines"]) => {
                (200, self.instances.iter().map(|(name, state)| record(dialect, name, state)).collect())
            }
            (Dialect::Fly, true, ["v1", "apps", _, "machines", name])
            | (Dialect::Daytona, true, ["sandbox", name])
            | (Dialect::Coder, true, ["api", "v2", "workspaces", name])
            | (Dialect::Generic, true, ["instances", name]) => self.one(name),
            (Dialect::Fly, false, ["v1", "apps", _, "machines", name, action]) => self.of_fly(name, action),
            (Dialect::Daytona, false, ["sandbox", name, action]) => self.of_daytona(name, action),
            (Dialect::Coder, true, ["api", "v2", "workspaces"]) => {
                let skipped = parameter("offset").and_then(|offset| offset.parse().ok()).unwrap_or(0);
                let page: Vec<Value> = self.page(skipped);
                (200, json!({"workspaces": page, "count": self.instances.len()}))
            }
            (Dialect::Coder, false, ["api", "v2", "workspaces", name, "builds"]) => self.of_coder(name, &asked.body),
            (Dialect::Generic, true, ["instances"]) => {
                let skipped = parameter("cursor").and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
                let page = self.page(skipped);
                let seen = skipped + page.len();
                let next = (seen < self.instances.len()).then(|| seen.to_string());
                (200, json!({"instances": page, "next_cursor": next}))
            }
            (Dialect::Generic, false, ["instances", name, action]) => match (self.instances.get(*name), *action) {
                (Some(state), "start") if state == "running" => refusal(409),
                (Some(_), "start" | "restart") => self.becomes(name, "running", json!({})),
                _ => refusal(404),
            },
            _ => refusal(404),
        }
    }

    /// A machine is started from where it can be, and restarted where it runs; anything else is a failed precondition.
    fn of_fly(&mut self, name: &str, action: &str) -> (u16, Value) {
        let Some(state) = self.instances.get(name).cloned() else { return refusal(404) };
        match (action, state.as_str()) {
            ("start", "created" | "stopped" | "suspended" | "failed") => {
                self.becomes(name, "started", json!({"previous_state": state, "migrated": false, "new_host": ""}))
            }
            ("restart", "started") => self.becomes(name, "started", json!({"ok": true})),
            ("start" | "restart", _) => refusal(412),
            _ => refusal(404),
        }
    }

    /// Starting what runs is accepted, and what is changing its state is a conflict.
    fn of_daytona(&mut self, name: &str, action: &str) -> (u16, Value) {
        let Some(state) = self.instances.get(name).cloned() else { return refusal(404) };
        let becomes = match (action, state.as_str()) {
            ("start", "started" | "stopped" | "archived" | "archiving" | "paused") => "started",
            ("stop", "started") => "stopped",
            (_, state) if state.ends_with("ing") => return refusal(409),
            _ => return refusal(400),
        };
        self.becomes(name, becomes, record(Dialect::Daytona, name, becomes))
    }

    /// One build at a time.
    fn of_coder(&mut self, name: &str, body: &str) -> (u16, Value) {
        let Some(state) = self.instances.get(name) else { return refusal(404) };
        let is_changing = state == "pending" || (state.ends_with("ing") && state != "running");
        if is_changing {
            return refusal(409);
        }
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        let becomes = match body["transition"].as_str() {
            Some("start") => "running",
            Some("stop") => "stopped",
            _ => return refusal(400),
        };
        let build = json!({"transition": body["transition"], "status": "pending", "workspace_id": name});
        (201, self.becomes(name, becomes, build).1)
    }

    fn becomes(&mut self, name: &str, state: &str, answer: Value) -> (u16, Value) {
        self.instances.insert(name.to_owned(), state.to_owned());
        (200, answer)
    }

    fn page(&self, skipped: usize) -> Vec<Value> {
        let page = self.instances.iter().skip(skipped).take(self.page_size);
        page.map(|(name, state)| record(self.dialect, name, state)).collect()
    }

    fn one(&self, name: &str) -> (u16, Value) {
        match self.instances.get(name) {
            Some(state) => (200, record(self.dialect, name, state)),
            None if self.dialect == Dialect::Generic => (404, json!({"error": {"code": "instance_not_found"}})),
            None => refusal(404),
        }
    }
}

fn refusal(status: u16) -> (u16, Value) {
    (status, json!({"message": "refused"}))
}

fn record(dialect: Dialect, name: &str, state: &str) -> Value {
    match dialect {
        Dialect::Molecule => json!({"state": state}),
        Dialect::Coder => json!({
            "id": name,
            "latest_build": {"status": state, "created_at": "2024-02-29T12:34:56Z", "job": {"completed_at": null}},
        }),
        Dialect::Fly | Dialect::Daytona | Dialect::Generic => json!({"id": name, "state": state}),
    }
}
