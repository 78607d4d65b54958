//! Whether the view and the functions through which the platform is known keep the contract: for `defib check`.
//!
//! An adapter is written once, by somebody who reads the contract for the first time, and its functions are first called in earnest when a
//! workspace has died. So `check` tries it before that: it compares the view column by column, and the functions with the catalogue. Then
//! it calls `mark_dead` with questions to which only a veto is the right answer, and with one to which it should agree, each in a
//! transaction that is rolled back.
//!
//! A trial locks the row that it is about for a few milliseconds, as a claim does. It waits for that lock for a fifth of a second at most.
//! If somebody else holds the row, the trial has no result, and nothing is reported.

use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::Store;
use crate::belong;
use crate::connect::Connection;
use crate::error::{Fault, StoreError};

/// The columns of `defib.fleet`, what they are for defib, and the expression by which the daemon reads them.
const COLUMNS: [(&str, &str, &str); 13] = [
    ("workspace_id", "text", "f.workspace_id::text"),
    ("name", "text", "f.name::text"),
    ("status", "text", "f.status::text"),
    ("kind", "text", "f.kind::text"),
    ("engine", "text", "f.engine::text"),
    ("container_ref", "text", "f.container_ref::text"),
    ("instance_ref", "text", "f.instance_ref::text"),
    ("suspended", "boolean", "f.suspended is false"),
    ("last_heartbeat_at", "timestamptz", "f.last_heartbeat_at::timestamptz"),
    ("last_activity_at", "timestamptz", "f.last_activity_at::timestamptz"),
    ("active_tasks", "integer", "f.active_tasks::bigint"),
    ("created_at", "timestamptz", "f.created_at::timestamptz"),
    ("policy", "jsonb", "f.policy::text"),
];

/// The functions that are called by name, their arguments and their results.
const FUNCTIONS: [(&str, &str, &str); 3] = [
    ("mark_dead", "text, jsonb", "boolean"),
    ("mark_recovered", "text, jsonb", "boolean"),
    ("report_suspicion", "text, text, text, integer, text", "void"),
];

/// An id that no platform has, and no uuid or number either: a function that casts it raises.
const NOBODY: &str = "defib check: nobody";
/// A status that no platform uses.
const NO_STATUS: &str = "defib check: no status";

const FOUND_COLUMNS: &str = "
    select c.relkind::text, a.attname::text, format_type(a.atttypid, a.atttypmod)
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     where n.nspname = 'defib' and c.relname = 'fleet'";

/// The functions that are called by name, and all others of the schema that run with their owner's rights.
const FOUND_FUNCTIONS: &str = "
    select p.proname::text, oidvectortypes(p.proargtypes), case when p.proretset then 'setof ' else '' end || format_type(p.prorettype, null),
           p.prosecdef, p.provolatile = 'v', has_function_privilege(p.oid, 'EXECUTE'),
           (select substr(setting, length('search_path=') + 1) from unnest(p.proconfig) as setting
             where setting like 'search\\_path=%'),
           exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as granted
                    where granted.grantee = 0 and granted.privilege_type = 'EXECUTE')
      from pg_catalog.pg_proc p
      join pg_catalog.pg_namespace n on n.oid = p.pronamespace
     where n.nspname = 'defib' and (p.prosecdef or p.proname = any ($1))
     order by 1, 2";

const DUPLICATES: &str = "
    select count(*), min(id) from (select workspace_id::text as id from defib.fleet group by 1 having count(*) > 1) twice";

/// A workspace that is spared only if `mark_dead` compares the evidence, and one that must be spared whatever the evidence is. Times are as
/// JSON has them, to the microsecond.
const CANDIDATES: &str = "
    (select true, f.workspace_id::text,
            jsonb_build_object('status', f.status::text, 'last_heartbeat_at', f.last_heartbeat_at::timestamptz,
                               'last_activity_at', f.last_activity_at::timestamptz),
            to_jsonb(f.last_heartbeat_at::timestamptz - interval '1 second'),
            to_jsonb(f.last_activity_at::timestamptz - interval '1 second')
       from defib.fleet f
      where f.suspended is false and f.status::text = any ($1) and isfinite(f.last_heartbeat_at::timestamptz)
        and (f.last_activity_at is null or isfinite(f.last_activity_at::timestamptz))
      order by f.last_activity_at is null, 2 limit 1)
    union all
    (select false, f.workspace_id::text,
            jsonb_build_object('status', f.status::text, 'last_heartbeat_at', f.last_heartbeat_at::timestamptz,
                               'last_activity_at', f.last_activity_at::timestamptz),
            null, null
       from defib.fleet f where f.suspended order by 2 limit 1)";

/// The result of comparing the view and the functions with the contract.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContractFacts {
    /// Where the contract is broken; the view comes first.
    pub breaches: Vec<Breach>,
    /// What `mark_dead` and `mark_recovered` answered. Empty if they cannot be called, or if the database takes no writes.
    pub trials: Vec<Trial>,
}

/// A way in which the view or a function breaks the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// There is no `defib.fleet`.
    NoFleet,
    /// `defib.fleet` is a materialized view: what it shows stands still between refreshes.
    MaterializedFleet,
    /// A column of `defib.fleet` is not there.
    ColumnMissing {
        /// Which.
        column: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// A column of `defib.fleet` is not what it should be, and cannot be cast to it.
    ColumnType {
        /// Which.
        column: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// Ids that more than one row of `defib.fleet` has, whatever their statuses.
    Duplicates {
        /// How many ids.
        ids: i64,
        /// One of them.
        example: String,
    },
    /// A function is not there.
    FunctionMissing {
        /// Its name and arguments.
        wanted: String,
        /// The arguments of those that have its name.
        others: Vec<String>,
    },
    /// A function returns something else.
    Returns {
        /// Its name and arguments.
        function: String,
        /// What it returns.
        found: String,
        /// What it should return.
        wanted: &'static str,
    },
    /// A function that writes is declared stable or immutable.
    NotVolatile {
        /// Its name and arguments.
        function: String,
    },
    /// A function runs with the rights of its caller, who has none on the platform's tables.
    RunsAsCaller {
        /// Its name and arguments.
        function: String,
    },
    /// A function runs with its owner's rights, and its caller chooses where it looks names up.
    SearchPath {
        /// Its name and arguments.
        function: String,
        /// Its own `search_path`; `None`: the caller's.
        found: Option<String>,
    },
    /// The view reads other tables, but this function is still the shipped one over `defib.workspaces`. So it knows none of the view's
    /// workspaces.
    ShippedFunction {
        /// Its name and arguments.
        function: String,
    },
    /// A function that runs with its owner's rights may be called by everybody.
    Public {
        /// Its name and arguments.
        function: String,
    },
}

/// A question to which only one answer is right: "yes" to [`Question::Fitting`], "no" to all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// `mark_dead` of a workspace that nobody knows.
    DeadUnknown,
    /// `mark_recovered` of a workspace that nobody knows.
    RecoveredUnknown,
    /// `mark_dead` on evidence that has another status than the row.
    OtherStatus,
    /// `mark_dead` on evidence that is older than the row's heartbeat.
    LaterHeartbeat,
    /// `mark_dead` on evidence that is older than the row's activity.
    LaterActivity,
    /// `mark_dead` of a workspace that `defib.fleet` calls suspended.
    Suspended,
    /// `mark_dead` of a watched workspace on evidence that fits its row.
    Fitting,
}

impl Question {
    /// The name of the function that is asked, without its schema.
    #[must_use]
    pub const fn function(self) -> &'static str {
        match self {
            Self::RecoveredUnknown => "mark_recovered",
            _ => "mark_dead",
        }
    }

    /// Whether true is the right answer.
    #[must_use]
    pub const fn wants_true(self) -> bool {
        matches!(self, Self::Fitting)
    }

    /// Whether it is about a workspace that nobody knows.
    #[must_use]
    pub const fn is_of_nobody(self) -> bool {
        matches!(self, Self::DeadUnknown | Self::RecoveredUnknown)
    }
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// False.
    Veto,
    /// True.
    Agreed,
    /// Neither.
    Null,
    /// An error, in the database's words.
    Raised(String),
    /// There was no answer in time, because somebody else holds the row.
    Locked,
}

/// A question with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// What was asked.
    pub question: Question,
    /// The workspace that the question was about.
    pub workspace: String,
    /// What was answered.
    pub answer: Answer,
}

impl Store {
    /// Holds the view and the functions against the contract. `watched` are values of `status`.
    ///
    /// # Errors
    /// [`StoreError::Check`] when the database gives no answer. If it answers with an error, that is a finding and not an error of this
    /// call.
    pub async fn check_contract(&self, watched: &[String]) -> Result<ContractFacts, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let mut facts = ContractFacts { breaches: columns(&mut connection).await?, trials: Vec::new() };
            let whole = facts.breaches.is_empty();
            if whole {
                facts.breaches.extend(duplicates(&mut connection).await?);
            }
            let functions = functions(&mut connection).await?;
            facts.breaches.extend(functions.iter().flat_map(|function| function.breaches.clone()));
            facts.breaches.extend(belong::strangers(&mut connection).await?);
            facts.breaches.extend(FUNCTIONS.iter().filter_map(|wanted| missing(wanted, &functions)));

            let nobody = |question| (question, NOBODY.to_owned(), json!({}));
            let mut questions = vec![nobody(Question::DeadUnknown), nobody(Question::RecoveredUnknown)];
            if whole {
                questions.extend(candidates(&mut connection, watched).await?);
            }
            for (question, workspace, evidence) in questions {
                if functions.iter().any(|found| found.name == question.function() && found.callable) {
                    facts.trials.extend(ask(&mut connection, question, workspace, &evidence).await?);
                }
            }
            let can_mark = functions.iter().any(|found| found.name == Question::Fitting.function() && found.callable);
            if whole && can_mark {
                match belong::agrees(&mut connection, watched).await {
                    Ok(trial) => facts.trials.extend(trial),
                    // That the view cannot be read is reported where the fleet is read.
                    Err(fault) => drop(state(fault)?),
                }
            }
            Ok(facts)
        })
        .await
        .map_err(StoreError::Check)
    }
}

async fn columns(connection: &mut Connection) -> Result<Vec<Breach>, Fault> {
    let found = connection.query(FOUND_COLUMNS, &[]).await?;
    let Some(first) = found.first() else { return Ok(vec![Breach::NoFleet]) };
    let mut breaches = Vec::new();
    if first.try_get::<_, &str>(0)? == "m" {
        breaches.push(Breach::MaterializedFleet);
    }
    for (column, wanted, expression) in COLUMNS {
        let mut types = found.iter().filter(|row| row.try_get(1).is_ok_and(|name: Option<&str>| name == Some(column)));
        let Some(row) = types.next() else {
            breaches.push(Breach::ColumnMissing { column, wanted });
            continue;
        };
        // The server says whether there is a cast. No row is read for that.
        let cast = connection.query(&format!("select {expression} from defib.fleet f limit 0"), &[]).await;
        match cast.map_err(state) {
            Err(Ok(SqlState::CANNOT_COERCE | SqlState::DATATYPE_MISMATCH)) => {
                breaches.push(Breach::ColumnType { column, found: row.try_get(2)?, wanted });
            }
            Err(Err(fault)) => return Err(fault),
            // Any other refusal is not about this column, and is reported where the fleet is read.
            Ok(_) | Err(Ok(_)) => {}
        }
    }
    Ok(breaches)
}

async fn duplicates(connection: &mut Connection) -> Result<Option<Breach>, Fault> {
    match connection.query_one(DUPLICATES, &[]).await {
        Ok(row) => {
            let ids = row.try_get(0)?;
            let example = row.try_get::<_, Option<String>>(1)?.unwrap_or_default();
            Ok((ids > 0).then_some(Breach::Duplicates { ids, example }))
        }
        Err(fault) => state(fault).map(|_| None),
    }
}

/// A function of schema defib, by the catalogue.
struct Function {
    name: String,
    arguments: String,
    /// Whether we may call it, with the arguments and the result that we want. Only then can a trial tell anything.
    callable: bool,
    breaches: Vec<Breach>,
}

async fn functions(connection: &mut Connection) -> Result<Vec<Function>, Fault> {
    let names = FUNCTIONS.map(|(name, _, _)| name);
    let rows = connection.query(FOUND_FUNCTIONS, &[(&names.as_slice(), Type::TEXT_ARRAY)]).await?;
    rows.iter().map(function_from_row).collect()
}

fn function_from_row(row: &Row) -> Result<Function, Fault> {
    let (name, arguments, found): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let (runs_as_owner, is_volatile, ours_to_call): (bool, bool, bool) =
        (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
    let (search_path, is_public): (Option<String>, bool) = (row.try_get(6)?, row.try_get(7)?);

    let function = format!("defib.{name}({arguments})");
    let mut breaches = Vec::new();
    let mut callable = false;
    if let Some((_, _, wanted)) = FUNCTIONS.iter().find(|(known, with, _)| name == *known && arguments == *with) {
        callable = ours_to_call && found == *wanted;
        if found != *wanted {
            breaches.push(Breach::Returns { function: function.clone(), found, wanted });
        }
        if !is_volatile {
            breaches.push(Breach::NotVolatile { function: function.clone() });
        }
        if !runs_as_owner {
            breaches.push(Breach::RunsAsCaller { function: function.clone() });
        }
    }
    if runs_as_owner && !search_path.as_deref().is_some_and(is_fixed) {
        breaches.push(Breach::SearchPath { function: function.clone(), found: search_path });
    }
    if runs_as_owner && is_public {
        breaches.push(Breach::Public { function });
    }
    Ok(Function { name, arguments, callable, breaches })
}

fn missing(wanted: &(&str, &str, &str), functions: &[Function]) -> Option<Breach> {
    let (name, arguments, _) = wanted;
    let others: Vec<_> = functions.iter().filter(|found| found.name == *name).map(|found| &found.arguments).collect();
    let is_there = others.iter().any(|found| found == arguments);
    (!is_there).then(|| Breach::FunctionMissing {
        wanted: format!("defib.{name}({arguments})"),
        others: others.into_iter().cloned().collect(),
    })
}

/// Whether the caller cannot put objects of its own before those that the function means. `pg_temp` must be named, and must be last: if it
/// is not named, it comes first.
fn is_fixed(search_path: &str) -> bool {
    let mut schemas = search_path.split(',').map(|schema| schema.trim().trim_matches('"'));
    schemas.next_back() == Some("pg_temp") && schemas.all(|schema| schema != "pg_temp" && schema != "$user")
}

/// Questions about rows that exist. There are no such questions if no row fits, or if the view cannot be read.
async fn candidates(connection: &mut Connection, watched: &[String]) -> Result<Vec<(Question, String, Value)>, Fault> {
    let rows = match connection.query(CANDIDATES, &[(&watched, Type::TEXT_ARRAY)]).await {
        Ok(rows) => rows,
        Err(fault) => return state(fault).map(|_| Vec::new()),
    };
    let mut questions = Vec::new();
    for row in rows {
        let (judged, workspace): (bool, String) = (row.try_get(0)?, row.try_get(1)?);
        let (fits, heartbeat, activity): (Value, Option<Value>, Option<Value>) =
            (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
        let but = |field: &str, value: Value| {
            let mut evidence = fits.clone();
            evidence[field] = value;
            evidence
        };
        if !judged {
            questions.push((Question::Suspended, workspace, fits));
            continue;
        }
        questions.push((Question::OtherStatus, workspace.clone(), but("status", NO_STATUS.into())));
        if let Some(earlier) = heartbeat {
            questions.push((Question::LaterHeartbeat, workspace.clone(), but("last_heartbeat_at", earlier)));
        }
        if let Some(earlier) = activity {
            questions.push((Question::LaterActivity, workspace.clone(), but("last_activity_at", earlier)));
        }
    }
    Ok(questions)
}

/// Asks one question, in a transaction that is rolled back whatever the answer is. `None`: nothing can be written here.
pub(crate) async fn ask(
    connection: &mut Connection,
    question: Question,
    workspace: String,
    evidence: &Value,
) -> Result<Option<Trial>, Fault> {
    connection.begin().await?;
    connection.batch("set local lock_timeout = 200").await?;
    let sql = format!("select defib.{}($1, $2)", question.function());
    let answer = connection.query_one(&sql, &[(&workspace, Type::TEXT), (evidence, Type::JSONB)]).await;
    connection.rollback().await?;
    let answer = match answer {
        Ok(row) => match row.try_get(0)? {
            Some(false) => Answer::Veto,
            Some(true) => Answer::Agreed,
            None => Answer::Null,
        },
        Err(fault) => {
            let words = said(&fault);
            match state(fault)? {
                SqlState::LOCK_NOT_AVAILABLE | SqlState::T_R_DEADLOCK_DETECTED | SqlState::QUERY_CANCELED => {
                    Answer::Locked
                }
                SqlState::READ_ONLY_SQL_TRANSACTION => return Ok(None),
                _ => Answer::Raised(words),
            }
        }
    };
    Ok(Some(Trial { question, workspace, answer }))
}

/// The code of a refusal; the fault itself where the database did not answer.
fn state(fault: Fault) -> Result<SqlState, Fault> {
    match &fault {
        Fault::Query(error) => error.code().cloned().ok_or(fault),
        _ => Err(fault),
    }
}

fn said(fault: &Fault) -> String {
    match fault {
        Fault::Query(error) => error.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::is_fixed;

    #[test]
    fn a_search_path_is_fixed_only_with_the_callers_own_schema_last() {
        for fixed in ["pg_catalog, pg_temp", "pg_temp", "public,pg_temp", "\"pg_catalog\", \"pg_temp\""] {
            assert!(is_fixed(fixed), "{fixed}");
        }
        for open in
            ["", "\"\"", "pg_catalog", "pg_temp, pg_catalog", "\"$user\", public, pg_temp", "pg_temp, public, pg_temp"]
        {
            assert!(!is_fixed(open), "{open}");
        }
    }
}
