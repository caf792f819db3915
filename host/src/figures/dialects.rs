//! The use of a gateway's dialects. Pure.
//!
//! In: two scrapes of a process' metrics. Out: for each dialect that has been used since the process began, the
//! clients that are connected and the rate of its answers, as far as the dialect has them.

use serde::{Deserialize, Serialize};

use super::{Window, per_second};
use crate::telemetry::scrape::Scrape;

/// A metric, and the labels of the series that count; without labels all of them do.
type Series = (&'static str, &'static str);

const SUBSCRIBERS: &str = "service_center_notify_subscriber_total";
const ANSWERS: &str = "muster_edge_dialect_answers_total";

/// The dialects: a name, the series of connected clients, and that of answers. Only streams have clients; what is
/// sent on event streams counts as pushes.
const DIALECTS: [(&str, Option<Series>, Option<Series>); 5] = [
    ("xds", Some((SUBSCRIBERS, "scheme=\"xDS\"")), Some(("muster_xds_resources_sent_total", ""))),
    ("sse", Some((SUBSCRIBERS, "scheme=\"SSE\"")), None),
    ("dns", None, Some(("muster_edge_dns_answers_total", ""))),
    ("http_sd", None, Some((ANSWERS, "dialect=\"http_sd\""))),
    ("eureka", None, Some((ANSWERS, "dialect=\"eureka\""))),
];

/// The use of one dialect. In JSON the keys are in camel case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DialectFigures {
    /// `xds`, `sse` (server-sent events), `dns`, `http_sd` or `eureka`; a later version may have others.
    pub dialect: String,
    /// Open streams. Absent for a dialect of single questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<f64>,
    /// Answers to questions; of xDS, resources sent. Absent without an earlier scrape, and for server-sent
    /// events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers_per_second: Option<f64>,
}

/// True for a series that these figures are made of.
pub(super) fn is_used(name: &str) -> bool {
    let all = DIALECTS.iter().flat_map(|(_, clients, answers)| [clients, answers]);
    all.flatten().any(|(metric, _)| *metric == name)
}

/// The dialects that have been used.
pub(super) fn of(scrape: &Scrape, before: Option<Window<'_>>) -> Vec<DialectFigures> {
    let figures = |(dialect, clients, answers): (&str, Option<Series>, Option<Series>)| {
        // A series of clients begins with the first one, and stays.
        let open = clients.and_then(|(name, labels)| scrape.sum(name, labels));
        let answered = answers.and_then(|(name, labels)| scrape.sum(name, labels)).unwrap_or_default();
        let is_used = open.is_some() || answered > 0.0;
        is_used.then(|| DialectFigures {
            dialect: dialect.to_owned(),
            clients: open,
            answers_per_second: answers.and_then(|(name, labels)| per_second(scrape, before, name, labels)),
        })
    };
    DIALECTS.into_iter().filter_map(figures).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(dns: u32, eureka: u32) -> Scrape {
        Scrape::parse(&format!(
            "muster_edge_dns_answers_total{{outcome=\"ok\",transport=\"udp\"}} {dns}\n\
             muster_edge_dns_answers_total{{outcome=\"no-name\",transport=\"udp\"}} 5\n\
             muster_edge_dialect_answers_total{{dialect=\"eureka\",outcome=\"answered\"}} {eureka}\n\
             muster_edge_dialect_answers_total{{dialect=\"eureka\",outcome=\"stale\"}} 1\n\
             muster_edge_dialect_answers_total{{dialect=\"http_sd\",outcome=\"answered\"}} 0\n\
             muster_xds_resources_sent_total{{type=\"cluster\"}} 0\n\
             service_center_notify_subscriber_total{{domain=\"a\",scheme=\"Websocket\"}} 9\n\
             service_center_notify_subscriber_total{{domain=\"a\",scheme=\"SSE\"}} 2\n\
             service_center_notify_subscriber_total{{domain=\"b\",scheme=\"SSE\"}} 1\n"
        ))
    }

    #[test]
    fn dialects_in_use_have_their_clients_and_the_rate_of_their_answers() {
        let figures = |clients, answers_per_second, dialect: &str| DialectFigures {
            dialect: dialect.to_owned(),
            clients,
            answers_per_second,
        };
        let told = of(&scrape(25, 7), Some((&scrape(5, 7), 10.0)));
        let expected = [
            figures(Some(3.0), None, "sse"),
            figures(None, Some(2.0), "dns"),
            figures(None, Some(0.0), "eureka"),
        ];
        assert_eq!(told, expected, "of xDS and Prometheus nobody has made use");
        let first = of(&scrape(25, 7), None);
        assert_eq!((first.len(), first[1].answers_per_second), (3, None), "one look has no rates");
    }
}
