//! Tables of cases: text in, requests out, answers compared.
//!
//! ```text
//! A case is a line at the margin; what follows are its requests, in order.
//!   POST /microservices {"service":{"serviceName":"order"}}     method, path, body
//!     X-ConsumerId: <cart>                                      header of the request
//!     200 {"serviceId":"<order>"}                               status, and the JSON exactly
//!     X-Resource-Revision: <rev>                                header of the answer
//!   GET /microservices/<order>
//!     200 has {"service":{"level":"BACK"}}                      status, and at least this JSON
//!   GET /microservices/nope
//!     400 400012                                                status and code
//! ```
//!
//! `<name>` is bound by its first place in an answer and stands for that text from then on; `<name:32>` also
//! has this length; `<_>` is anything; `<a*64>` is a text repeated. After a status: nothing means an empty
//! body, `*` any body, `text …` that text. Paths are below `/v4/default/registry`; `@/…` is a path as it
//! stands. Every request carries a domain of the case's own as `X-Domain-Name`, unless it names one.

use std::collections::HashMap;

use harness::Answer;

use crate::expected::{Bindings, Expected};
use crate::server::Server;

/// A case of a table.
pub(crate) struct Case {
    pub(crate) name: String,
    steps: Vec<Step>,
}

struct Step {
    line: usize,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
    expected: Option<Expected>,
    answer_headers: Vec<(String, String)>,
}

/// Reads a table.
pub(crate) fn cases(text: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = |mistake: &str| format!("line {}: {mistake}: {line}", index + 1);
        let indent = line.len() - line.trim_start().len();
        let content = line.trim();
        if content.starts_with('#') {
            continue;
        }
        if indent == 0 {
            cases.push(Case { name: content.to_owned(), steps: Vec::new() });
            continue;
        }
        let case = cases.last_mut().ok_or_else(|| at("no case"))?;
        if indent == 2 {
            case.steps.push(step(index + 1, content).ok_or_else(|| at("expected method and path"))?);
            continue;
        }
        let step = case.steps.last_mut().ok_or_else(|| at("no request"))?;
        if content.starts_with(|c: char| c.is_ascii_digit()) {
            step.expected = Some(Expected::parse(content).map_err(|mistake| at(&mistake))?);
            continue;
        }
        let (name, value) = content.split_once(':').ok_or_else(|| at("expected a header"))?;
        let header = (name.to_owned(), value.trim().to_owned());
        let into = if step.expected.is_some() { &mut step.answer_headers } else { &mut step.headers };
        into.push(header);
    }
    Ok(cases)
}

fn step(line: usize, content: &str) -> Option<Step> {
    let (method, rest) = content.split_once(' ')?;
    let (path, body) = rest.split_once(' ').unwrap_or((rest, ""));
    Some(Step {
        line,
        method: method.to_owned(),
        path: path.to_owned(),
        headers: Vec::new(),
        body: body.trim().to_owned(),
        expected: None,
        answer_headers: Vec::new(),
    })
}

/// The full path of what a table or a test writes.
pub(crate) fn full_path(path: &str) -> String {
    path.strip_prefix('@').map_or_else(|| format!("/v4/default/registry{path}"), str::to_owned)
}

impl Case {
    /// Sends its requests and compares the answers.
    pub(crate) async fn run(&self, server: &Server) -> Result<(), String> {
        let mut bound: Bindings = HashMap::from([("domain".to_owned(), server.domain())]);
        for step in &self.steps {
            let outcome = step.run(server, &mut bound).await;
            outcome.map_err(|e| format!("line {}: {} {}\n  {e}", step.line, step.method, step.path))?;
        }
        Ok(())
    }
}

impl Step {
    async fn run(&self, server: &Server, bound: &mut Bindings) -> Result<(), String> {
        let path = full_path(&crate::expected::fill(&self.path, bound)?);
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            headers.push((name.as_str(), crate::expected::fill(value, bound)?));
        }
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("x-domain-name")) {
            headers.push(("X-Domain-Name", bound["domain"].clone()));
        }
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let body = crate::expected::fill(&self.body, bound)?;
        let answer = server.send(&self.method, &path, &headers, body.into_bytes()).await?;
        self.judge(&answer, bound)
            .map_err(|e| format!("{e}\n  answered: {} {}", answer.status, answer.text()))
    }

    fn judge(&self, answer: &Answer, bound: &mut Bindings) -> Result<(), String> {
        let expected = self.expected.as_ref().ok_or("the table says nothing about the answer")?;
        expected.compare(answer, bound)?;
        for (name, value) in &self.answer_headers {
            header(answer, name, value, bound)?;
        }
        Ok(())
    }
}

fn header(answer: &Answer, name: &str, expected: &str, bound: &mut Bindings) -> Result<(), String> {
    let found = answer.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match (found, expected) {
        (None, "(none)") => Ok(()),
        (None, _) => Err(format!("no header {name}")),
        (Some(found), "(none)") => Err(format!("header {name}: {found}")),
        (Some(found), _) => {
            crate::expected::text(expected, &found, bound).map_err(|e| format!("header {name}: {e}"))
        }
    }
}
