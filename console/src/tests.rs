use http_body_util::BodyExt as _;

use super::*;

const ON: Console = Console { is_on: true };

fn ask(console: Console, method: &str, path: &str, headers: &[(&str, &str)]) -> Option<Response<Body>> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    console.answer(&request.body(()).expect("a request"))
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().expect("text"))
}

async fn body(response: Response<Body>) -> Vec<u8> {
    response.into_body().collect().await.expect("a body").to_bytes().to_vec()
}

#[tokio::test]
async fn every_file_is_served_with_its_rules() {
    for file in &files::FILES {
        let path = format!("/console/{}", file.name);
        let response = ask(ON, "GET", &path, &[]).expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(header(&response, "content-type"), file.kind);
        assert_eq!(header(&response, "x-content-type-options"), "nosniff");
        assert_eq!(header(&response, "cache-control"), "no-cache");
        let rules = header(&response, "content-security-policy");
        assert!(rules.contains("default-src 'none'") && rules.contains("frame-ancestors 'none'"), "{rules}");
        assert!(!rules.contains("unsafe") && !rules.contains("http"), "{rules}");
        let length: usize = header(&response, "content-length").parse().expect("a length");
        assert_eq!(length, file.text.len());
        assert_eq!(body(response).await, file.text);
        let head = ask(ON, "HEAD", &path, &[]).expect("an answer");
        assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, &*length.to_string()));
        assert!(body(head).await.is_empty());
    }
}

#[tokio::test]
async fn a_browser_that_has_a_file_is_told_so() {
    for encoding in ["identity", "br, gzip;q=0.5"] {
        let accept = ("accept-encoding", encoding);
        let first = ask(ON, "GET", "/console/app.js", &[accept]).expect("an answer");
        let tag = header(&first, "etag").to_owned();
        assert_eq!(header(&first, "content-encoding") == "gzip", encoding.contains("gzip"));
        for known in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
            let again = ask(ON, "GET", "/console/app.js", &[accept, ("if-none-match", &known)]);
            let again = again.expect("an answer");
            assert_eq!(again.status(), 304, "{known}");
            assert_eq!(header(&again, "etag"), tag);
            assert!(body(again).await.is_empty());
        }
        let other = ask(ON, "GET", "/console/app.js", &[accept, ("if-none-match", "\"x\"")]);
        assert_eq!(other.expect("an answer").status(), 200);
    }
    let plain = ask(ON, "GET", "/console/app.js", &[("accept-encoding", "gzip;q=0")]).expect("an answer");
    assert_eq!(header(&plain, "content-encoding"), "");
}

#[test]
fn paths_that_are_no_file_do_not_exist() {
    for path in [
        "/console/index.html",
        "/console/nothing",
        "/console//app.js",
        "/console/../Cargo.toml",
        "/console/%2e%2e/Cargo.toml",
        "/console/app%2ejs",
        "/console/app.js/",
        "/console/..%2fCargo.toml",
    ] {
        assert_eq!(ask(ON, "GET", path, &[]).expect("an answer").status(), 404, "{path}");
    }
    let refused = ask(ON, "POST", "/console/", &[]).expect("an answer");
    assert_eq!((refused.status().as_u16(), header(&refused, "allow")), (405, "GET, HEAD"));
}

#[test]
fn a_browser_is_led_to_the_console_and_nobody_else() {
    let page = ("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
    for (path, headers) in [("/", &[page][..]), ("/console", &[])] {
        let answer = ask(ON, "GET", path, headers).expect("an answer");
        assert_eq!((answer.status().as_u16(), header(&answer, "location")), (302, "console/"), "{path}");
    }
    for (method, path, headers) in [
        ("GET", "/", &[][..]),
        ("GET", "/", &[("accept", "*/*")]),
        ("GET", "/", &[("accept", "application/json")]),
        ("HEAD", "/", &[page]),
        ("POST", "/", &[page]),
        ("GET", "/consoles", &[page]),
        ("GET", "/v4/default/registry/microservices", &[page]),
    ] {
        assert!(ask(ON, method, path, headers).is_none(), "{method} {path}");
    }
}

#[test]
fn a_console_that_is_off_does_not_exist() {
    for path in ["/console", "/console/", "/console/app.js"] {
        assert_eq!(ask(Console::off(), "GET", path, &[]).expect("an answer").status(), 404, "{path}");
    }
    // Nor is a browser led to that of a control plane behind this gateway.
    let of_person = ask(Console::off(), "GET", "/", &[("accept", "text/html")]).expect("an answer");
    assert_eq!(of_person.status(), 404);
    assert!(ask(Console::off(), "GET", "/", &[]).is_none());
}

#[test]
fn the_list_of_files_is_that_of_the_bundle() {
    let mut built = Vec::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/bundle")).expect("the bundle") {
        built.push(entry.expect("a file").file_name().into_string().expect("a name"));
    }
    let mut listed: Vec<_> =
        files::FILES.iter().map(|file| if file.name.is_empty() { "index.html" } else { file.name }).collect();
    built.sort();
    listed.sort_unstable();
    assert_eq!(built, listed);
}

#[test]
fn the_bundle_is_small() {
    let sent: usize = files::FILES.iter().map(|file| file.content(true).bytes.len()).sum();
    assert!(sent <= 250 * 1024, "{sent} bytes are sent to a browser");
}
