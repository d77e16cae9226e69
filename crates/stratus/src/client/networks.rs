//! `stratus network …`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{Error, Result};
use super::inspect::{self, Kind};
use super::options::{named, pairs};
use super::output::{self, Format};
use super::request::{Filter, Request, segment};
use super::table::Table;
use super::{Context, human, prune};

/// Networks.
#[derive(Subcommand)]
pub(crate) enum NetworkCommand {
    /// Let a container into a network
    Connect(ConnectArgs),
    /// Create a network
    Create(Box<CreateArgs>),
    /// Take a container out of a network
    Disconnect(DisconnectArgs),
    /// Show everything about networks
    Inspect(inspect::NamesArgs),
    /// List networks
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Remove networks that no container is in
    Prune(prune::PruneArgs),
    /// Remove networks
    #[command(alias = "remove")]
    Rm(RmArgs),
}

/// List networks
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only those that fit: name=…, driver=…, label=…, type=…; repeats
    #[arg(long, short, value_name = "NAME=VALUE")]
    filter: Vec<Filter>,
    /// Don't cut ids
    #[arg(long)]
    no_trunc: bool,
    /// Only ids
    #[arg(long, short)]
    quiet: bool,
}

/// Create a network
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// Address that is no container's, NAME=ADDRESS; repeats
    #[arg(long, value_name = "NAME=ADDRESS")]
    aux_address: Vec<String>,
    /// Let containers be connected by hand, as in Swarm: here they can in any case
    #[arg(long)]
    attachable: bool,
    /// Driver
    #[arg(long, short, value_name = "DRIVER", default_value = "bridge")]
    driver: String,
    /// Address of the host in a subnet; repeats
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<String>,
    /// No way out of it
    #[arg(long)]
    internal: bool,
    /// Part of a subnet that containers' addresses are taken from; repeats
    #[arg(long, value_name = "CIDR")]
    ip_range: Vec<String>,
    /// Driver of addresses
    #[arg(long, value_name = "DRIVER", default_value = "default")]
    ipam_driver: String,
    /// Option of the driver of addresses; repeats
    #[arg(long, value_name = "NAME=VALUE")]
    ipam_opt: Vec<String>,
    /// IPv4
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_value_t = true,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    ipv4: bool,
    /// Also IPv6
    #[arg(long)]
    ipv6: bool,
    /// Label; repeats
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Option of the driver; repeats
    #[arg(long, short, value_name = "NAME=VALUE")]
    opt: Vec<String>,
    /// Subnet; repeats [default: a free one of the daemon's pools]
    #[arg(long, value_name = "CIDR")]
    subnet: Vec<String>,
    /// Name of the network
    name: String,
}

/// Let a container into a network
#[derive(Args, Debug)]
pub(crate) struct ConnectArgs {
    /// Further name of it in the network; repeats
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Option of the network's driver for it; repeats
    #[arg(long, value_name = "NAME=VALUE")]
    driver_opt: Vec<String>,
    /// Of several networks with a gateway, that with the highest number is the way out
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    gw_priority: Option<i64>,
    /// IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// Another container that it reaches by name, NAME[:ALIAS]; repeats
    #[arg(long, value_name = "CONTAINER")]
    link: Vec<String>,
    /// Link-local address; repeats
    #[arg(long, value_name = "ADDRESS")]
    link_local_ip: Vec<String>,
    /// Network, by name or id
    network: String,
    /// Container, by name or id
    container: String,
}

/// Take a container out of a network
#[derive(Args, Debug)]
pub(crate) struct DisconnectArgs {
    /// Also where the container is gone
    #[arg(long, short)]
    force: bool,
    /// Network, by name or id
    network: String,
    /// Container, by name or id
    container: String,
}

/// Remove networks
#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// Say nothing of those that are not there
    #[arg(long, short)]
    force: bool,
    /// Networks, by name or id
    #[arg(required = true)]
    networks: Vec<String>,
}

/// `stratus network …`
pub(super) async fn dispatch(context: &Context, command: NetworkCommand) -> Result<ExitCode> {
    match command {
        NetworkCommand::Connect(args) => connect(context, args).await,
        NetworkCommand::Create(args) => create(context, *args).await,
        NetworkCommand::Disconnect(args) => disconnect(context, args).await,
        NetworkCommand::Inspect(args) => inspect::of_kind(context, args, Kind::Network).await,
        NetworkCommand::Ls(args) => list(context, args).await,
        NetworkCommand::Prune(args) => prune::networks(context, args).await,
        NetworkCommand::Rm(args) => remove(context, args).await,
    }
}

async fn list(context: &Context, args: ListArgs) -> Result<ExitCode> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Listed {
        id: String,
        name: String,
        driver: String,
        internal: bool,
        #[serde(rename = "IPAM", default)]
        addresses: Addresses,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Addresses {
        config: Option<Vec<Pool>>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Pool {
        subnet: String,
    }
    let document = context.daemon.document(Request::get("/networks").filters(&args.filter)).await;
    let document = document.map_err(|error| error.with_filters(&engine::NETWORK_FILTERS))?;
    let id = |network: &Listed| if args.no_trunc { network.id.clone() } else { human::short(&network.id).to_owned() };
    if args.quiet {
        return context.names(&Vec::<Listed>::deserialize(&document)?.iter().map(id).collect::<Vec<_>>());
    }
    context.show(&document, |document| {
        let mut table = Table::new(["ID", "NAME", "DRIVER", "SUBNETS", "INTERNAL"]);
        for network in Vec::<Listed>::deserialize(document)? {
            let pools = network.addresses.config.iter().flatten();
            let subnets: Vec<&str> = pools.map(|pool| pool.subnet.as_str()).collect();
            table.row([
                id(&network).into(),
                network.name.as_str().into(),
                network.driver.as_str().into(),
                subnets.join(", ").into(),
                if network.internal { "yes" } else { "" }.into(),
            ]);
        }
        Ok(table)
    })
}

impl CreateArgs {
    /// The subnets with what belongs to each: gateways, ranges and addresses are those of the subnet that they are in.
    fn pools(&self) -> Result<Vec<Value>> {
        let no_subnet = |text: &str| Error::Usage(format!("{text:?} is no subnet: give one such as 10.1.0.0/24"));
        let mut pools = Vec::new();
        let (mut gateways, mut ranges) = (self.gateway.clone(), self.ip_range.clone());
        let auxiliary = pairs(&self.aux_address, "--aux-address")?;
        let mut placed = 0;
        for text in &self.subnet {
            let subnet: ipnet::IpNet = text.parse().map_err(|_| no_subnet(text))?;
            let mut pool = json!({ "Subnet": text });
            let mut take = |texts: &mut Vec<String>, key: &str| {
                let inside = |text: &String| {
                    let address = text.split('/').next().unwrap_or(text);
                    address.parse::<std::net::IpAddr>().is_ok_and(|address| subnet.contains(&address))
                };
                if let Some(index) = texts.iter().position(inside) {
                    pool[key] = json!(texts.remove(index));
                }
            };
            take(&mut gateways, "Gateway");
            take(&mut ranges, "IPRange");
            for (name, address) in &auxiliary {
                let parsed = address.as_str().and_then(|text| text.parse::<std::net::IpAddr>().ok());
                if parsed.is_some_and(|address| subnet.contains(&address)) {
                    pool["AuxiliaryAddresses"][name] = address.clone();
                    placed += 1;
                }
            }
            pools.push(pool);
        }
        if let Some(text) = gateways.first().or(ranges.first()) {
            return Err(Error::Usage(format!("{text} is in no subnet that was given with --subnet")));
        }
        if placed < auxiliary.len() {
            return Err(Error::Usage("an --aux-address is in no subnet that was given with --subnet".into()));
        }
        Ok(pools)
    }
}

async fn create(context: &Context, args: CreateArgs) -> Result<ExitCode> {
    let labels = named(&args.label)?;
    let body = json!({
        "Name": args.name,
        "CheckDuplicate": true,
        "Driver": args.driver,
        "Attachable": args.attachable,
        "EnableIPv4": args.ipv4,
        "EnableIPv6": args.ipv6,
        "IPAM": { "Driver": args.ipam_driver, "Config": args.pools()?, "Options": pairs(&args.ipam_opt, "--ipam-opt")? },
        "Internal": args.internal,
        "Labels": labels,
        "Options": pairs(&args.opt, "--opt")?,
    });
    let created = context.daemon.document(Request::post("/networks/create").json(&body)).await?;
    if let Some(warning) = created["Warning"].as_str().filter(|warning| !warning.is_empty()) {
        output::warning(warning);
    }
    match context.format {
        Format::Json => output::document(&created)?,
        Format::Table => output::line(created["Id"].as_str().unwrap_or_default())?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn connect(context: &Context, args: ConnectArgs) -> Result<ExitCode> {
    let mut endpoint = json!({
        "Aliases": args.alias,
        "Links": args.link,
        "DriverOpts": pairs(&args.driver_opt, "--driver-opt")?,
        "GwPriority": args.gw_priority,
    });
    if args.ip.is_some() || args.ip6.is_some() || !args.link_local_ip.is_empty() {
        endpoint["IPAMConfig"] =
            json!({ "IPv4Address": args.ip, "IPv6Address": args.ip6, "LinkLocalIPs": args.link_local_ip });
    }
    let body = json!({ "Container": args.container, "EndpointConfig": endpoint });
    context.daemon.done(Request::post(format!("/networks/{}/connect", segment(&args.network))).json(&body)).await?;
    Ok(ExitCode::SUCCESS)
}

async fn disconnect(context: &Context, args: DisconnectArgs) -> Result<ExitCode> {
    let body = json!({ "Container": args.container, "Force": args.force });
    context.daemon.done(Request::post(format!("/networks/{}/disconnect", segment(&args.network))).json(&body)).await?;
    Ok(ExitCode::SUCCESS)
}

async fn remove(context: &Context, args: RmArgs) -> Result<ExitCode> {
    let work = async |name: &str| {
        let removed = context.daemon.done(Request::delete(format!("/networks/{}", segment(name)))).await;
        match removed {
            Err(error) if args.force && error.is_not_found() => Ok(()),
            outcome => outcome.map(drop),
        }
    };
    context.each(&args.networks, work).await
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: CreateArgs,
    }

    fn pools(line: &str) -> Result<Vec<Value>> {
        Command::parse_from(line.split(' ')).args.pools()
    }

    #[test]
    fn gateways_go_with_their_subnets() {
        let pools = pools(
            "create --subnet 10.1.0.0/16 --subnet fd00::/64 --gateway fd00::9 --gateway 10.1.0.9 --ip-range 10.1.2.0/24 \
             --aux-address host=10.1.0.5 net",
        )
        .expect("pools");
        assert_eq!(pools[0]["Gateway"], "10.1.0.9");
        assert_eq!(
            (&pools[0]["IPRange"], &pools[0]["AuxiliaryAddresses"]["host"]),
            (&json!("10.1.2.0/24"), &json!("10.1.0.5"))
        );
        assert_eq!(pools[1], json!({ "Subnet": "fd00::/64", "Gateway": "fd00::9" }));
    }

    #[test]
    fn a_gateway_outside_is_refused() {
        assert!(pools("create --subnet 10.1.0.0/16 --gateway 10.2.0.1 net").is_err());
        assert!(pools("create --subnet here net").is_err());
    }
}
