# moto forgets an endpoint's kind of addresses, and the descriptions of rules that name a group or a list.
resource "aws_vpc_endpoint" "s3" {
  lifecycle {
    ignore_changes = [ip_address_type]
  }
}

resource "aws_vpc_security_group_egress_rule" "way" {
  lifecycle {
    ignore_changes = [description]
  }
}

resource "aws_vpc_security_group_ingress_rule" "way" {
  lifecycle {
    ignore_changes = [description]
  }
}
