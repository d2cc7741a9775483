//! The record of the forwards.

use serde_json::json;
use testing::connector::{Connector, forward_command};
use testing::target::{Request, Target, serve_worker, stock_answer};

#[test]
fn a_refused_forward_is_not_counted() {
    let target = Target::new(|request: Request| serve_worker(request, stock_answer));
    let mut connector = Connector::connected(&target);
    for number in 1..=2 {
        let path = std::path::Path::new("/nonexistent/directory/socket");
        let refused = connector.request(&forward_command(&target, path, "/run/x"));
        assert_eq!(refused["success"], false, "attempt {number}: {refused}");
    }
    connector.forward(&target, "/run/x");
    let finished = connector.request(&json!({ "control": true, "cmd": "finish" }));
    assert_eq!(finished["record"]["forwards"], 1, "{finished}");
}
