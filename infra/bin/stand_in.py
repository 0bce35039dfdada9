#!/usr/bin/env python3
"""stand_in.py PORT: serves moto, an in-memory emulation of AWS, on this machine.

Patches moto in three ways:
- It returns the state of a subnet's IPv6 range as a structure, AWS as a string, for which Terraform waits.
- It reports all 2^64 addresses of an IPv6-only subnet as free, AWS reports none.
- It does not store how a subnet names its hosts.
"""

import sys

from moto.ec2.models.subnets import Subnet
from moto.ec2.responses.subnets import Subnets
from moto.server import main


def associations(subnet):
    return [
        {
            "ipv6CidrBlock": association["ipv6CidrBlock"],
            "associationId": association["associationId"],
            "ipv6CidrBlockState": {"state": association["ipv6CidrBlockState"]["State"]},
        }
        for association in subnet.ipv6_cidr_block_associations.values()
        if association["ipv6CidrBlockState"]["State"] == "associated"
    ]


def modify_subnet_attribute(request):
    answer = modify_known_attribute(request)
    options = request.ec2_backend.get_subnet(request._get_param("SubnetId")).private_dns_name_options_on_launch
    for option, parameter in {
        "EnableResourceNameDnsAAAARecord": "EnableResourceNameDnsAAAARecordOnLaunch.Value",
        "HostnameType": "PrivateDnsHostnameTypeOnLaunch",
    }.items():
        value = request._get_param(parameter)
        if value is not None:
            options[option] = value
    return answer


modify_known_attribute = Subnets.modify_subnet_attribute
Subnets.modify_subnet_attribute = modify_subnet_attribute
free = Subnet.available_ip_address_count
Subnet.ipv6_cidr_block_association_set = property(associations)
Subnet.available_ip_address_count = property(lambda subnet: 0 if subnet.ipv6_native else free.fget(subnet))

if __name__ == "__main__":
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
