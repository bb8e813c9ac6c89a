//! Settings that say nothing, or nothing true, beside each other: told before anything begins.

use super::{Config, Hooks, Sides};

/// What does not go together, each with what to do.
pub fn disagreements(config: &Config) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut refuse = |is_wrong: bool, text: &str| {
        if is_wrong {
            wrong.push(text.to_owned());
        }
    };
    if config.hooks != Hooks::Packet {
        refuse(!config.interface.is_empty(), "interface is of use with the hooks packet only: add --hooks packet, or leave it out");
        refuse(!config.address.is_empty(), "address is of use with the hooks packet only: add --hooks packet, or leave it out");
        return wrong;
    }
    refuse(config.interface.is_empty(), "the hooks packet need an interface: add --interface NAME (ip link shows the names)");
    refuse(!config.pid.is_empty(), "pid is of no use with the hooks packet: frames tell of no process; use port or address");
    refuse(config.sides != Sides::Both, "sides is of no use with the hooks packet: frames are seen from outside, by neither side");
    let scope = !config.namespace.is_empty() || !config.exclude_namespace.is_empty();
    refuse(scope, "namespace and exclude_namespace are of no use with the hooks packet: frames tell of no process; use address");
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_and_the_packet_hooks_need_each_other() {
        let config = Config::default();
        assert!(disagreements(&config).is_empty());
        let lone = Config { interface: vec!["eth0".to_owned()], ..config.clone() };
        assert!(disagreements(&lone)[0].contains("--hooks packet"));
        let lone = Config { address: vec!["10.0.0.0/8".parse().unwrap()], ..config.clone() };
        assert!(disagreements(&lone)[0].starts_with("address"));
        let bare = Config { hooks: Hooks::Packet, ..config };
        assert!(disagreements(&bare)[0].contains("--interface NAME"));
        assert!(disagreements(&Config { interface: vec!["eth0".to_owned()], ..bare }).is_empty());
    }

    #[test]
    fn what_frames_cannot_tell_is_not_taken_for_a_filter() {
        let packet = Config { hooks: Hooks::Packet, interface: vec!["eth0".to_owned()], ..Config::default() };
        for wrong in [
            Config { pid: vec![1], ..packet.clone() },
            Config { sides: Sides::Server, ..packet.clone() },
            Config { namespace: vec!["shop".to_owned()], ..packet.clone() },
        ] {
            assert_eq!(disagreements(&wrong).len(), 1, "{wrong:?}");
        }
    }
}
