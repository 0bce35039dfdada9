#!/usr/bin/env python3
"""stand_in.py PORT: serves moto, which answers AWS's calls from memory, on this machine.

Two answers are mended. moto tells the state of a subnet's IPv6 range as a structure where AWS tells a word, and Terraform
would wait for the word. Of an IPv6-only subnet it tells all 2^64 addresses as free where AWS tells none.
"""

import sys

from moto.ec2.models.subnets import Subnet
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


free = Subnet.available_ip_address_count
Subnet.ipv6_cidr_block_association_set = property(associations)
Subnet.available_ip_address_count = property(lambda subnet: 0 if subnet.ipv6_native else free.fget(subnet))

if __name__ == "__main__":
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
