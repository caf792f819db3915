//! The instruments of DNS. They are read when somebody scrapes, so that an answer costs one addition.

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use crate::answer::State;
use crate::board::{Board, Dropped};
use crate::message::{Code, Transport};

/// Registers every instrument.
pub fn register(meter: &Meter, board: &Board) {
    let of_answers = board.clone();
    meter
        .u64_observable_counter("muster_edge_dns_answers_total")
        .with_description("Answers of DNS, by transport and outcome")
        .with_callback(move |seen| {
            for transport in Transport::ALL {
                for code in Code::ALL {
                    let labels = [
                        KeyValue::new("transport", transport.label()),
                        KeyValue::new("outcome", code.label()),
                    ];
                    seen.observe(of_answers.answers(transport, code), &labels);
                }
            }
        })
        .build();
    let of_drops = board.clone();
    meter
        .u64_observable_counter("muster_edge_dns_dropped_total")
        .with_description("Packets and connections of DNS that were dropped, by reason")
        .with_callback(move |seen| {
            for why in Dropped::ALL {
                seen.observe(of_drops.drops(why), &[KeyValue::new("reason", why.label())]);
            }
        })
        .build();
    gauge(meter, board, "muster_edge_dns_connections", "Connections of DNS that are open", |board| {
        board.connections() as f64
    });
    gauge(meter, board, "muster_edge_dns_known", "1 when the names of DNS are known, otherwise 0", |board| {
        if matches!(**board.state(), State::Known(_)) { 1.0 } else { 0.0 }
    });
    gauge(
        meter,
        board,
        "muster_edge_dns_age_seconds",
        "Time since the names of DNS were last known to be complete",
        |board| board.age().as_secs_f64(),
    );
    gauge(meter, board, "muster_edge_dns_names", "Names of services in DNS", |board| {
        match &**board.state() {
            State::Known(zone) => zone.names() as f64,
            State::Unknown | State::Closed => 0.0,
        }
    });
    gauge(
        meter,
        board,
        "muster_edge_dns_hidden_services",
        "Services that DNS cannot name, because another service has the same label",
        |board| match &**board.state() {
            State::Known(zone) => zone.hidden() as f64,
            State::Unknown | State::Closed => 0.0,
        },
    );
}

fn gauge(meter: &Meter, board: &Board, name: &'static str, about: &'static str, value: fn(&Board) -> f64) {
    let board = board.clone();
    meter
        .f64_observable_gauge(name)
        .with_description(about)
        .with_callback(move |seen| seen.observe(value(&board), &[]))
        .build();
}
