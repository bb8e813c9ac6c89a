//! The way to the cluster: whether there is one, whether it answers, and which verbs its role lacks.

use std::time::Duration;

use super::{Finding, State};
use crate::{
    attribution::kubernetes::{Access, Answer, Kind, Options, Verb, access},
    config::{Config, Kubernetes},
};

const TOPIC: &str = "Kubernetes";
/// For all of it.
const PATIENCE: Duration = Duration::from_secs(2);
const COST: &str = "names of pods, workloads, Services and nodes: they are addresses and ids";

/// Asks the cluster that the agent would ask.
pub(super) fn ask(config: &Config) -> Vec<Finding> {
    if config.kubernetes == Kubernetes::Off {
        return vec![finding("cluster", State::Ok, "not asked: --kubernetes off", None)];
    }
    let options = Options { kubeconfig: config.kubeconfig.clone(), ..Options::default() };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![finding("cluster", State::Unknown, &format!("cannot be asked: {error}"), None)],
    };
    let access = runtime.block_on(access(&options, PATIENCE));
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    findings(&access, config.kubernetes == Kubernetes::On)
}

fn findings(access: &Access, is_required: bool) -> Vec<Finding> {
    match access {
        Access::Nowhere => {
            let state = if is_required { State::Missing } else { State::Absent };
            let remedy = "only on nodes of a cluster; in a pod: serviceAccountName and automountServiceAccountToken: true, as in \
                          deploy/kubernetes; elsewhere: --kubeconfig FILE";
            vec![finding("cluster", state, "neither a service account nor a kubeconfig", Some((COST, remedy)))]
        }
        Access::Unusable(why) => {
            let remedy = "name another kubeconfig with --kubeconfig FILE; in a pod: automountServiceAccountToken: true, and the variables \
                          KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT as the kubelet sets them";
            vec![finding("cluster", State::Missing, why, Some((COST, remedy)))]
        }
        Access::Unreachable { server, why } => {
            let remedy = "see whether the address is right and reachable from this host and its network namespace: curl -k SERVER/version; \
                          a pod in the host's network needs kube-proxy for the address of the Service kubernetes";
            vec![finding("API server", State::Missing, &format!("{server} does not answer: {why}"), Some((COST, remedy)))]
        }
        Access::Reached { answers, .. } if answers.iter().any(|(.., answer)| *answer == Answer::Unknown) => {
            let remedy =
                "a new token or certificate: kubectl -n remora delete pod POD renews that of a pod; --kubeconfig FILE names another";
            vec![finding("API server", State::Missing, "does not accept the token or certificate of this account", Some((COST, remedy)))]
        }
        Access::Reached { server, answers } => {
            let mut findings = vec![finding("API server", State::Ok, &format!("{server} answers"), None)];
            findings.extend(Kind::ALL.map(|kind| kind_finding(kind, answers)));
            findings
        }
    }
}

fn kind_finding(kind: Kind, answers: &[(Kind, Verb, Answer)]) -> Finding {
    let of_kind = || answers.iter().filter(|(own, ..)| *own == kind);
    let refused: Vec<_> = of_kind().filter(|(.., answer)| *answer == Answer::Refused).map(|(_, verb, _)| verb.name()).collect();
    if !refused.is_empty() {
        let found = format!("the role lacks {} on {}", refused.join(" and "), kind.full_name());
        let remedy = "kubectl apply -f deploy/kubernetes/base/rbac.yaml, or add the verb to the ClusterRole of the agent's service account";
        return finding(kind.name(), State::Missing, &found, Some((kind.use_of(), remedy)));
    }
    if of_kind().any(|(.., answer)| *answer == Answer::NotServed) {
        let remedy = "Kubernetes 1.20 or later";
        return finding(kind.name(), State::Missing, "the API server does not serve it", Some((kind.use_of(), remedy)));
    }
    for (_, verb, answer) in of_kind() {
        if let Answer::Failed(why) = answer {
            let remedy = "ask again; if it stays so, see to the API server";
            return finding(kind.name(), State::Unknown, &format!("{}: {why}", verb.name()), Some((kind.use_of(), remedy)));
        }
    }
    finding(kind.name(), State::Ok, "may be listed and watched", None)
}

fn finding(name: &str, state: State, found: &str, otherwise: Option<(&'static str, &'static str)>) -> Finding {
    let (cost, remedy) = otherwise.unzip();
    Finding { topic: TOPIC, name: name.to_owned(), state, found: found.to_owned(), cost, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(answer: impl Fn(Kind, Verb) -> Answer) -> Access {
        let answers = Kind::ALL.into_iter().flat_map(|kind| Verb::ALL.map(|verb| (kind, verb)));
        let answers = answers.map(|(kind, verb)| (kind, verb, answer(kind, verb))).collect();
        Access::Reached { server: "https://10.96.0.1".to_owned(), answers }
    }

    #[test]
    fn no_cluster_is_fine_unless_one_is_demanded() {
        assert_eq!(findings(&Access::Nowhere, false)[0].state, State::Absent);
        assert_eq!(findings(&Access::Nowhere, true)[0].state, State::Missing);
    }

    #[test]
    fn a_role_that_is_complete_leaves_nothing_to_do() {
        let findings = findings(&reached(|_, _| Answer::Granted), true);
        assert_eq!(findings.len(), 1 + Kind::ALL.len());
        assert!(findings.iter().all(|finding| finding.state == State::Ok && finding.remedy.is_none()), "{findings:?}");
    }

    #[test]
    fn each_verb_that_is_lacking_is_named_and_no_other() {
        for (kind, verb) in Kind::ALL.into_iter().flat_map(|kind| Verb::ALL.map(|verb| (kind, verb))) {
            let refuse = |own, asked| if (own, asked) == (kind, verb) { Answer::Refused } else { Answer::Granted };
            let findings = findings(&reached(refuse), false);
            let missing: Vec<_> = findings.iter().filter(|finding| finding.state != State::Ok).collect();
            assert_eq!(missing.len(), 1, "{findings:?}");
            assert_eq!(missing[0].found, format!("the role lacks {} on {}", verb.name(), kind.full_name()));
            assert!(missing[0].cost.is_some() && missing[0].remedy.is_some());
        }
    }

    #[test]
    fn an_account_that_is_not_known_is_said_once() {
        let findings = findings(&reached(|_, _| Answer::Unknown), false);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].found.contains("token or certificate"), "{findings:?}");
    }

    #[test]
    fn a_kubeconfig_that_leads_to_nobody_is_said_within_the_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let written = |port: u16| {
            let text = format!(
                "{{current-context: a, clusters: [{{name: a, cluster: {{server: 'http://127.0.0.1:{port}'}}}}], contexts: [{{name: a, \
                 context: {{cluster: a, user: a}}}}], users: [{{name: a, user: {{}}}}]}}"
            );
            std::fs::write(&path, text).unwrap();
            let config = Config { kubeconfig: Some(path.clone()), ..Config::default() };
            let began = std::time::Instant::now();
            let findings = ask(&config);
            assert!(began.elapsed() < 2 * PATIENCE, "{findings:?}");
            findings[0].found.clone()
        };
        // It takes connections and says nothing.
        let found = written(port);
        assert!(found.contains(&format!("127.0.0.1:{port} does not answer: no answer within 2s")), "{found}");
        drop(listener);
        let found = written(port);
        assert!(found.contains("refused"), "{found}");
        std::fs::write(&path, "clusters: 7").unwrap();
        let findings = ask(&Config { kubeconfig: Some(path.clone()), ..Config::default() });
        assert!(findings[0].found.contains(path.to_str().unwrap()), "{findings:?}");
    }
}
